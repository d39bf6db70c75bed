-- The debits and credits of all of a shop's ($1) and mode's ($2) accounts by currency: now, or when the moment $3 began.
WITH tail AS MATERIALIZED (
    SELECT account_id, sum(debit_minor) AS debits_minor, sum(credit_minor) AS credits_minor
      FROM entry_tail WHERE at < $3::timestamptz GROUP BY account_id
)
SELECT currency::text AS currency,
       sum(CASE WHEN $3::timestamptz IS NULL THEN debits_posted_minor
                ELSE coalesce(entry.debits_minor, 0) + coalesce(tail.debits_minor, 0) END) AS debits_minor,
       sum(CASE WHEN $3::timestamptz IS NULL THEN credits_posted_minor
                ELSE coalesce(entry.credits_minor, 0) + coalesce(tail.credits_minor, 0) END) AS credits_minor
  FROM account
  LEFT JOIN LATERAL (
      SELECT debits_minor, credits_minor FROM account_entry
       WHERE $3::timestamptz IS NOT NULL AND account_entry.account_id = account.account_id
         AND account_entry.at < $3::timestamptz
       ORDER BY account_entry.at DESC LIMIT 1
  ) AS entry ON true
  LEFT JOIN tail ON tail.account_id = account.account_id
 WHERE shop_id = $1 AND mode = $2
 GROUP BY currency
 ORDER BY currency
