-- An all-or-nothing checkout that is over took all its orders' money, or kept none of it.
SELECT p.payment_id, count(*) FILTER (WHERE o.captured_minor > o.refund_reserved_minor) AS kept, count(*) AS orders
  FROM payment AS p JOIN payment_order AS o USING (payment_id)
 WHERE p.on_failure = 'all_or_nothing'
 GROUP BY p.payment_id
HAVING bool_and(o.status IN ('SUCCESS', 'FAILED', 'CANCELLED')) AND bool_or(o.status IN ('FAILED', 'CANCELLED'))
   AND count(*) FILTER (WHERE o.captured_minor > o.refund_reserved_minor) > 0;
