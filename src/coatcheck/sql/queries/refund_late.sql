-- Orders that policy owes a refund because they succeeded late, at most $1. What was given back already, and what may not be
-- while it is disputed, does not keep the others waiting.
SELECT l.order_id, o.shop_id, o.mode
  FROM late_success AS l JOIN payment_order AS o USING (order_id)
 WHERE o.status = 'SUCCESS' AND NOT o.is_disputed AND o.captured_minor > o.refund_reserved_minor
 ORDER BY l.at LIMIT $1
