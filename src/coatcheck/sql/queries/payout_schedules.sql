-- When a seller's money is paid out unasked, for each currency. $1 shop_id, $2 mode, $3 seller_account
SELECT currency, cron, threshold_minor, changed_by, changed_at, next_at
  FROM payout_schedule WHERE shop_id = $1 AND mode = $2 AND seller_account = $3 ORDER BY currency
