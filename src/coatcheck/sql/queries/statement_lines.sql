-- An account's ($1) lines after the place ($2, $3) and before the moment $4, oldest first, at most $5. Of its entries so many are
-- opened that there are lines enough. OFFSET 0: the few transfers of a page are looked up one by one.
WITH near AS MATERIALIZED (
    SELECT at, transfer_ids,
           coalesce(sum(transfers) FILTER (WHERE at > $2) OVER (ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
               AS lines_before
      FROM (SELECT at, transfers, transfer_ids FROM account_entry
             WHERE account_id = $1 AND at >= $2 AND at < $4
             ORDER BY at LIMIT $5::bigint + 1) AS entry
), line AS MATERIALIZED (
    (SELECT at, transfer_id FROM near CROSS JOIN LATERAL unnest(transfer_ids) AS transfer_id
      WHERE lines_before < $5 AND (at, transfer_id) > ($2, $3))
    UNION ALL
    (SELECT at, transfer_id FROM entry_tail
      WHERE account_id = $1 AND (at, transfer_id) > ($2, $3) AND at < $4)
    ORDER BY at, transfer_id LIMIT $5
)
SELECT line.at, line.transfer_id, moved.kind, counter.name AS counter_account, moved.subject_id,
       CASE WHEN moved.debit_account_id = $1 THEN moved.amount_minor ELSE 0 END AS debit_minor,
       CASE WHEN moved.credit_account_id = $1 THEN moved.amount_minor ELSE 0 END AS credit_minor
  FROM line
 CROSS JOIN LATERAL (SELECT * FROM transfer WHERE transfer.transfer_id = line.transfer_id OFFSET 0) AS moved
 CROSS JOIN LATERAL (
     SELECT name FROM account
      WHERE account_id = CASE WHEN moved.debit_account_id = $1 THEN moved.credit_account_id
                              ELSE moved.debit_account_id END OFFSET 0
 ) AS counter
 ORDER BY line.at, line.transfer_id
