-- A run counts its items; none of them pays more than was planned, none is paid by a run that waits or was stopped, and
-- what was far off the usual was let go by another person than who proposed it. What was adopted after a restore had been
-- paid before this run was made again.
SELECT r.run_id, r.status, r.items, r.total_minor, i.items AS counted, i.planned, i.too_much
  FROM payout_run AS r
  LEFT JOIN (SELECT i.run_id, count(*) AS items, sum(i.planned_minor) AS planned,
                    count(*) FILTER (WHERE p.amount_minor > i.planned_minor OR p.run_id <> i.run_id) AS too_much,
                    count(p.payout_id) FILTER (WHERE a.payout_id IS NULL) AS paid
               FROM payout_run_item AS i LEFT JOIN payout AS p ON p.payout_id = i.payout_id
               LEFT JOIN adopted_payout AS a ON a.payout_id = p.payout_id
              GROUP BY i.run_id) AS i USING (run_id)
 WHERE r.items <> coalesce(i.items, 0) OR r.total_minor <> coalesce(i.planned, 0) OR i.too_much > 0
    OR r.status IN ('WAITING', 'REJECTED') AND i.paid > 0
    OR r.decided_by = r.proposed_by;
