-- A payout moved exactly what its status says: out of the balance once; on to the bank once it was paid; back once it
-- failed, or came back. Only one that was adopted after a restore took something from pending, and that is what was noted.
WITH moved AS (
    SELECT subject_id AS payout_id, sum(amount_minor) FILTER (WHERE kind = 'payout') AS taken,
           sum(amount_minor) FILTER (WHERE kind = 'payout' AND debit_account_id IN (
               SELECT account_id FROM account WHERE kind = 'seller_pending')) AS ahead,
           sum(amount_minor) FILTER (WHERE kind = 'payout_paid') AS paid,
           sum(amount_minor) FILTER (WHERE kind = 'payout_failed') AS failed,
           sum(amount_minor) FILTER (WHERE kind = 'payout_returned') AS returned
      FROM transfer WHERE kind IN ('payout', 'payout_paid', 'payout_failed', 'payout_returned')
     GROUP BY subject_id
)
SELECT payout_id, p.status, p.amount_minor, m.taken, m.ahead, m.paid, m.failed, m.returned
  FROM payout AS p FULL JOIN moved AS m USING (payout_id) FULL JOIN adopted_payout AS a USING (payout_id)
 WHERE (p.amount_minor, coalesce(a.ahead_minor, 0),
        CASE WHEN p.status IN ('PAID', 'RETURNED') THEN p.amount_minor ELSE 0 END,
        CASE WHEN p.status = 'FAILED' THEN p.amount_minor ELSE 0 END,
        CASE WHEN p.status = 'RETURNED' THEN p.amount_minor ELSE 0 END)
       IS DISTINCT FROM (coalesce(m.taken, 0)::bigint, coalesce(m.ahead, 0)::bigint, coalesce(m.paid, 0)::bigint, coalesce(m.failed, 0)::bigint,
                         coalesce(m.returned, 0)::bigint);
