-- A shop's ($1) and mode's ($2) payment orders accepted from the day $3 to before the day $4, as they stand now, by $5 (day or month),
-- provider, currency, status and decline code.
SELECT date_trunc($5::text, created_at AT TIME ZONE 'UTC')::date AS period, provider, currency::text AS currency, status,
       decline_code, count(*) AS orders, sum(amount_minor) AS amount_minor, sum(captured_minor) AS captured_minor,
       sum(refunded_minor) AS refunded_minor
  FROM payment_order
 WHERE created_at >= $3::date::timestamp AT TIME ZONE 'UTC' AND created_at < $4::date::timestamp AT TIME ZONE 'UTC'
   AND shop_id = $1 AND mode = $2
 GROUP BY period, provider, currency, status, decline_code
 ORDER BY period, provider, currency, status, decline_code
