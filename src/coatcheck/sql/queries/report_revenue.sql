-- What a shop ($1) and mode ($2) turned over and earned from the day $3 to before the day $4, by $5 (day or month) and currency.
-- Only the platform's and the providers' accounts are read, whose days are few.
WITH moved AS (
    SELECT account_id, day, kind, debits_minor, credits_minor FROM account_day WHERE day >= $3::date AND day < $4::date
    UNION ALL
    SELECT account_id, (at AT TIME ZONE 'UTC')::date, kind, debit_minor, credit_minor
      FROM entry_tail
     WHERE (at AT TIME ZONE 'UTC')::date >= $3::date AND (at AT TIME ZONE 'UTC')::date < $4::date
)
SELECT date_trunc($5::text, day::timestamp)::date AS period, currency::text AS currency,
       coalesce(sum(debits_minor) FILTER (WHERE account.kind = 'psp_receivable'
                AND moved.kind IN ('charge', 'commission')), 0) AS charged_minor,
       coalesce(sum(credits_minor - debits_minor) FILTER (WHERE account.kind = 'psp_receivable'
                AND moved.kind IN ('refund', 'commission_refund', 'refund_return', 'commission_refund_return')), 0)
           AS refunded_minor,
       coalesce(sum(credits_minor) FILTER (WHERE account.kind = 'platform_commission'), 0) AS commission_minor,
       coalesce(sum(debits_minor) FILTER (WHERE account.kind = 'platform_commission'), 0) AS commission_returned_minor,
       coalesce(sum(debits_minor - credits_minor) FILTER (WHERE account.kind = 'platform_psp_fees'), 0) AS psp_fees_minor,
       coalesce(sum(debits_minor - credits_minor) FILTER (WHERE account.kind = 'platform_dispute_fees'), 0)
           AS dispute_fees_minor
  FROM account JOIN moved USING (account_id)
 WHERE shop_id = $1 AND mode = $2
   AND account.kind IN ('psp_receivable', 'platform_commission', 'platform_psp_fees', 'platform_dispute_fees')
 GROUP BY period, currency
 ORDER BY period, currency
