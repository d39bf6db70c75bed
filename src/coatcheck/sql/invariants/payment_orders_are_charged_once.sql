-- No payment order has more than one approved charge.
SELECT order_id, count(*) AS approved_charges
  FROM operation
 WHERE kind = 'charge' AND status = 'APPROVED'
 GROUP BY order_id
HAVING count(*) > 1;
