-- Orders that policy owes a refund because they succeeded late, at most $1.
SELECT l.order_id, o.shop_id, o.mode
  FROM late_success AS l JOIN payment_order AS o USING (order_id)
 WHERE o.status = 'SUCCESS'
 ORDER BY l.at LIMIT $1
