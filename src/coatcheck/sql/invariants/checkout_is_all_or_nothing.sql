-- An all-or-nothing checkout that is over took all its orders' money, or kept none of it. Money that came back from a
-- buyer's bank, so that its refund has failed, is a person's turn.
SELECT p.payment_id, count(*) FILTER (WHERE o.is_kept) AS kept, count(*) AS orders
  FROM payment AS p
  JOIN (SELECT payment_id, status,
               captured_minor > refund_reserved_minor
               AND NOT EXISTS (SELECT FROM refund AS r WHERE r.order_id = each.order_id AND r.status = 'FAILED') AS is_kept
          FROM payment_order AS each) AS o USING (payment_id)
 WHERE p.on_failure = 'all_or_nothing'
 GROUP BY p.payment_id
HAVING bool_and(o.status IN ('SUCCESS', 'FAILED', 'CANCELLED')) AND bool_or(o.status IN ('FAILED', 'CANCELLED'))
   AND count(*) FILTER (WHERE o.is_kept) > 0;
