-- An order says what its charge or authorization says: approved is SUCCESS (or AUTHORIZED, and what became of that),
-- declined is FAILED or CANCELLED, undecided is not final, unless the PSP is only asked again (status PENDING).
SELECT o.order_id, o.status AS order_status, c.kind, c.status AS operation_status
  FROM operation AS c JOIN payment_order AS o USING (order_id)
 WHERE c.kind IN ('charge', 'authorize')
   AND CASE
           WHEN c.status = 'APPROVED' AND c.kind = 'charge' THEN o.status <> 'SUCCESS'
           WHEN c.status = 'APPROVED' THEN o.status NOT IN ('AUTHORIZED', 'SUCCESS', 'CANCELLED') OR o.authorized_minor = 0
           WHEN c.status = 'DECLINED' THEN o.status NOT IN ('FAILED', 'CANCELLED') AND o.authorized_minor = 0
           WHEN c.status = 'PENDING' THEN o.status = 'EXECUTING'
           ELSE o.status NOT IN ('EXECUTING', 'PENDING') AND o.authorized_minor = 0 END;
