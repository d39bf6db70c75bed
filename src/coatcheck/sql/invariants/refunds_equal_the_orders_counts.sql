-- What an order counts as reserved, refunded and given back of the commission is what its refunds add up to.
WITH asked AS (
    SELECT order_id, sum(amount_minor) FILTER (WHERE status <> 'FAILED') AS reserved,
           sum(amount_minor) FILTER (WHERE status = 'SUCCEEDED') AS refunded,
           sum(commission_minor) FILTER (WHERE status <> 'FAILED') AS commission
      FROM refund GROUP BY order_id
)
SELECT order_id, refund_reserved_minor, reserved, refunded_minor, refunded, refund_commission_minor, commission
  FROM payment_order FULL JOIN asked USING (order_id)
 WHERE (coalesce(refund_reserved_minor, -1), coalesce(refunded_minor, -1), coalesce(refund_commission_minor, -1))
       <> (coalesce(reserved, 0), coalesce(refunded, 0), coalesce(commission, 0));
