-- Who is due by one schedule at $5. $1 shop_id, $2 mode, $3 cron, $4 currency
SELECT seller_account
  FROM payout_schedule
 WHERE shop_id = $1 AND mode = $2 AND cron = $3 AND currency = $4 AND next_at <= $5
 ORDER BY seller_account
