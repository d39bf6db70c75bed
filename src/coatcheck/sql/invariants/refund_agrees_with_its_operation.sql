-- Every refund has one operation, and says what that says; a refund that is asked about again keeps its word meanwhile.
SELECT r.refund_id, r.status AS refund_status, o.status AS operation_status
  FROM refund AS r FULL JOIN (SELECT * FROM operation WHERE kind = 'refund') AS o USING (refund_id)
 WHERE r.refund_id IS NULL OR o.operation_id IS NULL
    OR CASE o.status WHEN 'APPROVED' THEN r.status <> 'SUCCEEDED' WHEN 'DECLINED' THEN r.status <> 'FAILED'
                     WHEN 'PENDING' THEN r.status = 'FAILED' WHEN 'UNRESOLVED' THEN r.status = 'FAILED'
                     ELSE r.status <> 'PENDING' END;
