-- Disputes by id ($1), each with its order's names.
SELECT d.dispute_id, d.order_id, d.payment_id, d.shop_id, d.mode, d.provider, d.provider_reference, d.amount_minor,
       d.currency::text AS currency, d.reason, d.status, d.evidence_due_at, d.opened_at, d.changed_at, o.payment_order_id,
       o.seller_account
  FROM dispute AS d JOIN payment_order AS o ON o.order_id = d.order_id
 WHERE d.dispute_id = ANY ($1::uuid[])
 ORDER BY d.opened_at DESC, d.dispute_id DESC
