-- One run. $1 run_id
SELECT run_id, shop_id, mode, schedule, currency, period, items, total_minor, usual_minor, status, proposed_by,
       proposed_at, decided_by, decided_at, finished_at
  FROM payout_run WHERE run_id = $1
