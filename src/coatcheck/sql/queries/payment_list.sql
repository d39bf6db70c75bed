-- A shop's payments, newest first, older than the place ($3, $4) and younger than $5. At most $6 rows are looked at,
-- so a page costs the same however rare its status is. $7: whether the orders' statuses are asked for.
SELECT p.payment_id, p.created_at, p.buyer_id,
       CASE WHEN $7::boolean
            THEN ARRAY(SELECT o.status FROM payment_order AS o WHERE o.order_id = ANY (p.order_ids)) END AS statuses
  FROM payment AS p
 WHERE p.shop_id = $1 AND p.mode = $2
   AND (p.created_at, p.payment_id) < ($3, $4) AND p.created_at > $5
 ORDER BY p.created_at DESC, p.payment_id DESC
 LIMIT $6
