-- What stands in suspense is what the open breaks stand for, per provider and currency: nothing is left there unexplained.
WITH standing AS (
    SELECT shop_id, mode, provider, currency, sum(suspense_minor) AS open_minor
      FROM reconciliation_break
     WHERE closed_at IS NULL AND suspense_minor <> 0
     GROUP BY shop_id, mode, provider, currency
), booked AS (
    SELECT shop_id, mode, substr(name, 10) AS provider, currency::text AS currency,
           credits_posted_minor - debits_posted_minor AS booked_minor
      FROM account WHERE kind = 'suspense'
)
SELECT shop_id, mode, provider, currency, open_minor, booked_minor
  FROM standing FULL JOIN booked USING (shop_id, mode, provider, currency)
 WHERE coalesce(open_minor, 0) <> coalesce(booked_minor, 0);
