-- A seller's wallet by the names of its accounts: pending ($3), available ($4), in transit ($5), reserve ($6).
SELECT currency,
       (coalesce(sum(credits_posted_minor - debits_posted_minor) FILTER (WHERE name = $3), 0))::bigint AS pending_minor,
       (coalesce(sum(credits_posted_minor - debits_posted_minor - debits_pending_minor)
                 FILTER (WHERE name = $4), 0))::bigint AS available_minor,
       (coalesce(sum(credits_posted_minor - debits_posted_minor)
                 FILTER (WHERE name = $5), 0))::bigint AS in_payout_minor,
       (coalesce(sum(credits_posted_minor - debits_posted_minor)
                 FILTER (WHERE name = $6), 0))::bigint AS reserve_minor
FROM account
WHERE shop_id = $1 AND mode = $2 AND name IN ($3, $4, $5, $6)
GROUP BY currency
ORDER BY currency
