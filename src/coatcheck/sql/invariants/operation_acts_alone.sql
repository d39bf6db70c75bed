-- An order's one act under way is its undecided capture or void, and there is no other.
SELECT o.order_id, o.acting, a.operation_id, a.kind, a.status
  FROM payment_order AS o
  FULL JOIN (SELECT * FROM operation WHERE kind IN ('capture', 'void') AND status IN ('OPEN', 'PENDING', 'UNRESOLVED')) AS a
    ON a.operation_id = o.acting AND a.order_id = o.order_id
 WHERE (o.acting IS NOT NULL OR a.operation_id IS NOT NULL) AND (o.acting IS NULL OR a.operation_id IS NULL);
