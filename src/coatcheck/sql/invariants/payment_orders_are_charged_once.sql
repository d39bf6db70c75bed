-- No payment order has more than one approved charge or authorization.
SELECT order_id, count(*) AS approved_charges
  FROM operation
 WHERE kind IN ('charge', 'authorize') AND status = 'APPROVED'
 GROUP BY order_id
HAVING count(*) > 1;
