-- An order's refunds are frozen exactly while a dispute of it is open or lost.
SELECT o.order_id, o.is_disputed
  FROM payment_order AS o
 WHERE o.is_disputed <> EXISTS (SELECT FROM dispute AS d WHERE d.order_id = o.order_id AND dispute_freezes(d.status));
