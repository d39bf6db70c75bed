-- The ledger holds exactly what the orders count: per payment and currency, what was captured, what went back to buyers,
-- and what is still reserved.
WITH orders AS (
    SELECT payment_id, currency, sum(captured_minor) AS captured, sum(refunded_minor) AS refunded,
           sum(CASE status WHEN 'AUTHORIZED' THEN authorized_minor - captured_minor ELSE 0 END) AS reserved
      FROM payment_order GROUP BY payment_id, currency
), moved AS (
    SELECT subject_id AS payment_id, currency,
           sum(CASE WHEN kind IN ('charge', 'commission') AND phase IN ('posted', 'captured') THEN amount_minor ELSE 0 END)
               AS captured,
           sum(CASE WHEN kind IN ('refund', 'commission_refund') THEN amount_minor
                    WHEN kind IN ('refund_return', 'commission_refund_return') THEN -amount_minor ELSE 0 END) AS refunded,
           sum(CASE phase WHEN 'held' THEN amount_minor WHEN 'captured' THEN -amount_minor
                          WHEN 'released' THEN -amount_minor ELSE 0 END) AS reserved
      FROM transfer
     WHERE kind IN ('charge', 'commission', 'refund', 'commission_refund', 'refund_return', 'commission_refund_return')
     GROUP BY subject_id, currency
)
SELECT payment_id, currency, orders.captured AS order_captured, moved.captured AS moved_captured,
       orders.refunded AS order_refunded, moved.refunded AS moved_refunded,
       orders.reserved AS order_reserved, moved.reserved AS moved_reserved
  FROM orders FULL JOIN moved USING (payment_id, currency)
 WHERE (coalesce(orders.captured, 0), coalesce(orders.refunded, 0), coalesce(orders.reserved, 0))
       <> (coalesce(moved.captured, 0), coalesce(moved.refunded, 0), coalesce(moved.reserved, 0));
