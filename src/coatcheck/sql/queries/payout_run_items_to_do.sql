-- Items of approved runs that nobody has asked for yet, at most $1.
SELECT i.run_id, i.seller_account, i.shop_id, i.mode, i.currency, i.payout_id
  FROM payout_run AS r
  JOIN payout_run_item AS i ON i.run_id = r.run_id AND i.outcome IS NULL
 WHERE r.status = 'APPROVED'
 ORDER BY r.period, i.run_id, i.seller_account
 LIMIT $1
