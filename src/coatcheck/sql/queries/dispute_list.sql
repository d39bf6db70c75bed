-- Disputes, newest first, older than the place ($3, $4), at most $5. $1 shop and $2 mode: NULL is all. $6 status and $7 order:
-- NULL is any.
SELECT d.dispute_id, d.order_id, d.payment_id, d.shop_id, d.mode, d.provider, d.provider_reference, d.amount_minor,
       d.currency::text AS currency, d.reason, d.status, d.evidence_due_at, d.opened_at, d.changed_at, o.payment_order_id,
       o.seller_account
  FROM dispute AS d JOIN payment_order AS o ON o.order_id = d.order_id
 WHERE ($1::uuid IS NULL OR d.shop_id = $1) AND ($2::text IS NULL OR d.mode = $2)
   AND (d.opened_at, d.dispute_id) < ($3::timestamptz, $4::uuid)
   AND ($6::text IS NULL OR d.status = $6) AND ($7::uuid IS NULL OR d.order_id = $7)
 ORDER BY d.opened_at DESC, d.dispute_id DESC
 LIMIT $5
