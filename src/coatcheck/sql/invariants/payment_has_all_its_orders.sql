-- Every payment has exactly the orders it names, every order its payment, and an order that was not blocked its charge.
SELECT p.payment_id, o.order_id
  FROM (SELECT payment_id, unnest(order_ids) AS order_id FROM payment) AS p
  FULL JOIN payment_order AS o ON o.order_id = p.order_id AND o.payment_id = p.payment_id
 WHERE p.payment_id IS NULL OR o.order_id IS NULL
UNION ALL
SELECT o.payment_id, o.order_id
  FROM payment_order AS o
 WHERE o.decline_code IS DISTINCT FROM 'risk_blocked'
   AND NOT EXISTS (SELECT FROM operation AS c WHERE c.order_id = o.order_id);
