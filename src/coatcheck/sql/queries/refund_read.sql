-- One refund with its order's name. $1 refund_id
SELECT r.refund_id, r.shop_id, r.mode, r.payment_id, o.payment_order_id, r.amount_minor, r.commission_minor,
       r.currency::text AS currency, r.status, r.reason, r.decline_code, r.provider_reference, r.created_at, r.decided_at
  FROM refund AS r JOIN payment_order AS o USING (order_id)
 WHERE r.refund_id = $1
