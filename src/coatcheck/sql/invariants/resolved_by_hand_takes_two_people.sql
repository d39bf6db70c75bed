-- What was given up by hand was proposed by one person and confirmed by another, and they said so.
SELECT o.operation_id, r.word, r.proposed_by, r.confirmed_by
  FROM operation AS o LEFT JOIN resolution AS r USING (operation_id)
 WHERE o.status = 'DECLINED' AND o.decline_code = 'resolved_by_hand'
   AND (r.confirmed_by IS NULL OR r.confirmed_by = r.proposed_by OR r.word NOT IN ('not_charged', 'not_done'))
