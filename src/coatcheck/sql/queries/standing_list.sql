-- A shop's ($1) and mode's ($2) accounts after the currency and name ($4, $5), at most $6: as they stand now, or, where $3 is a
-- moment, as they stood when it began. What holds reserve is known for now only.
WITH tail AS MATERIALIZED (
    SELECT account_id, sum(debit_minor) AS debits_minor, sum(credit_minor) AS credits_minor
      FROM entry_tail WHERE at < $3::timestamptz GROUP BY account_id
), standing AS (
    SELECT account.account_id, name, kind, currency, normal_side, opened_at,
           CASE WHEN $3::timestamptz IS NULL THEN debits_posted_minor
                ELSE coalesce(entry.debits_minor, 0) + coalesce(tail.debits_minor, 0) END::bigint AS debits_minor,
           CASE WHEN $3::timestamptz IS NULL THEN credits_posted_minor
                ELSE coalesce(entry.credits_minor, 0) + coalesce(tail.credits_minor, 0) END::bigint AS credits_minor,
           CASE WHEN $3::timestamptz IS NULL THEN debits_pending_minor END AS debits_pending_minor,
           CASE WHEN $3::timestamptz IS NULL THEN credits_pending_minor END AS credits_pending_minor
      FROM account JOIN account_kind USING (kind)
      LEFT JOIN LATERAL (
          SELECT debits_minor, credits_minor FROM account_entry
           WHERE $3::timestamptz IS NOT NULL AND account_entry.account_id = account.account_id
             AND account_entry.at < $3::timestamptz
           ORDER BY account_entry.at DESC LIMIT 1
      ) AS entry ON true
      LEFT JOIN tail ON tail.account_id = account.account_id
     WHERE shop_id = $1 AND mode = $2 AND (currency, name) > ($4::text, $5::text)
)
SELECT account_id, name, kind, currency::text AS currency, normal_side, debits_minor, credits_minor, debits_pending_minor,
       credits_pending_minor, opened_at
  FROM standing
 WHERE $3::timestamptz IS NULL OR opened_at < $3::timestamptz OR debits_minor > 0 OR credits_minor > 0
 ORDER BY currency, name
 LIMIT $6
