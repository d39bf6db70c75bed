-- What a run pays to whom. $1 run_id
SELECT i.seller_account, i.payout_id, i.planned_minor, i.outcome, p.amount_minor, p.status
  FROM payout_run_item AS i LEFT JOIN payout AS p ON p.payout_id = i.payout_id
 WHERE i.run_id = $1 ORDER BY i.seller_account
