-- An order says what its charge says: APPROVED is SUCCESS, DECLINED is FAILED, undecided is not final.
SELECT o.order_id, o.status AS order_status, c.status AS operation_status
  FROM operation AS c JOIN payment_order AS o USING (order_id)
 WHERE c.kind = 'charge'
   AND CASE c.status
           WHEN 'APPROVED' THEN o.status <> 'SUCCESS'
           WHEN 'DECLINED' THEN o.status <> 'FAILED'
           ELSE o.status NOT IN ('EXECUTING', 'PENDING') END;
