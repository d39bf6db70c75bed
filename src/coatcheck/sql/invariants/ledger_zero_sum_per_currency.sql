-- In every shop, mode and currency, what was debited equals what was credited, posted and pending.
SELECT shop_id, mode, currency, sum(debits_posted_minor) AS debits_posted, sum(credits_posted_minor) AS credits_posted,
       sum(debits_pending_minor) AS debits_pending, sum(credits_pending_minor) AS credits_pending
FROM account
GROUP BY shop_id, mode, currency
HAVING sum(debits_posted_minor) <> sum(credits_posted_minor)
    OR sum(debits_pending_minor) <> sum(credits_pending_minor)
