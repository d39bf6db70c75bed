-- Schedules that somebody is due by at $1, each once; $2 a schedule and $3 a shop: NULL is any. At most $4.
SELECT shop_id, mode, cron, currency, min(next_at) AS since
  FROM payout_schedule
 WHERE next_at <= $1 AND ($2::text IS NULL OR cron = $2) AND ($3::uuid IS NULL OR shop_id = $3)
 GROUP BY shop_id, mode, cron, currency
 ORDER BY since, shop_id, mode, cron, currency
 LIMIT $4
