-- The fees that each provider kept of a shop's ($1) and mode's ($2) money from the day $3 to before the day $4, by $5 (day or month),
-- currency and kind: what its receivable gave to the accounts of fees.
WITH moved AS (
    SELECT account_id, day, kind, counter_kind, debits_minor, credits_minor, transfers
      FROM account_day WHERE day >= $3::date AND day < $4::date
    UNION ALL
    SELECT tail.account_id, (at AT TIME ZONE 'UTC')::date, tail.kind, counter.kind, debit_minor, credit_minor, 1
      FROM entry_tail AS tail JOIN account AS counter ON counter.account_id = tail.counter_id
     WHERE (at AT TIME ZONE 'UTC')::date >= $3::date AND (at AT TIME ZONE 'UTC')::date < $4::date
)
SELECT date_trunc($5::text, day::timestamp)::date AS period, account.name AS receivable, currency::text AS currency,
       moved.kind, sum(credits_minor - debits_minor) AS fees_minor, sum(transfers)::bigint AS transfers
  FROM account JOIN moved USING (account_id)
 WHERE shop_id = $1 AND mode = $2 AND account.kind = 'psp_receivable'
   AND counter_kind IN ('platform_psp_fees', 'platform_dispute_fees')
 GROUP BY period, receivable, currency, moved.kind
 ORDER BY period, receivable, currency, moved.kind
