-- A shop's ($1) and mode's ($2) accounts with their posted counters when the moment $3 began (opening) and when $4 began
-- (closing; NULL: now, by the counters themselves). Accounts of one name stand together.
WITH tail AS MATERIALIZED (
    SELECT account_id, at, debit_minor, credit_minor FROM entry_tail
), queued AS MATERIALIZED (
    SELECT account_id,
           coalesce(sum(debit_minor - credit_minor) FILTER (WHERE at < $3::timestamptz), 0) AS opening_minor,
           coalesce(sum(debit_minor - credit_minor) FILTER (WHERE at < $4::timestamptz), 0) AS closing_minor
      FROM tail GROUP BY account_id
)
SELECT account.account_id, name, kind, normal_side, currency::text AS currency, opened_at,
       (coalesce(opening.balance_minor, 0) + coalesce(queued.opening_minor, 0))::bigint AS opening_minor,
       CASE WHEN $4::timestamptz IS NULL THEN debits_posted_minor - credits_posted_minor
            ELSE coalesce(closing.balance_minor, 0) + coalesce(queued.closing_minor, 0) END::bigint AS closing_minor
  FROM account JOIN account_kind USING (kind)
  LEFT JOIN LATERAL (
      SELECT debits_minor - credits_minor AS balance_minor FROM account_entry
       WHERE account_entry.account_id = account.account_id AND account_entry.at < $3::timestamptz
       ORDER BY account_entry.at DESC LIMIT 1
  ) AS opening ON true
  LEFT JOIN LATERAL (
      SELECT debits_minor - credits_minor AS balance_minor FROM account_entry
       WHERE account_entry.account_id = account.account_id AND account_entry.at < $4::timestamptz
       ORDER BY account_entry.at DESC LIMIT 1
  ) AS closing ON true
  LEFT JOIN queued ON queued.account_id = account.account_id
 WHERE shop_id = $1 AND mode = $2
 ORDER BY name, currency
