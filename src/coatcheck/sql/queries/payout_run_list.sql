-- Runs, newest first, before the place ($3, $4), at most $5. $1 shop_id and $2 mode: NULL is all; $6 status: NULL is any.
SELECT run_id, shop_id, mode, schedule, currency, period, items, total_minor, usual_minor, status, proposed_by,
       proposed_at, decided_by, decided_at, finished_at
  FROM payout_run
 WHERE ($1::uuid IS NULL OR shop_id = $1) AND ($2::text IS NULL OR mode = $2)
   AND (proposed_at, run_id) < ($3::timestamptz, $4::uuid) AND ($6::text IS NULL OR status = $6)
 ORDER BY proposed_at DESC, run_id DESC
 LIMIT $5
