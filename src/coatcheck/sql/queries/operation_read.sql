-- Operations ($1) with all that running them needs, of their orders, refunds, payments and leases.
SELECT o.operation_id, o.attempt, o.tries, o.kind, o.status, o.order_id, o.payment_id, o.shop_id, o.mode, o.provider,
       o.amount_minor, o.currency::text AS currency, o.body, o.first_sent_at, o.provider_reference, o.target_reference,
       o.is_final, o.is_hosted, o.cause, o.created_at,
       p.seller_account, p.commission_minor, p.status AS order_status, p.authorized_minor, p.captured_minor, p.acting IS NOT NULL AS is_acting,
       o.refund_id, r.commission_minor AS refund_commission_minor, r.status AS refund_status,
       y.capture, y.on_failure, l.attempt AS lease_attempt, l.holder, l.due_at
  FROM operation AS o
  JOIN payment_order AS p ON p.order_id = o.order_id
  JOIN payment AS y ON y.payment_id = o.payment_id
  LEFT JOIN refund AS r ON r.refund_id = o.refund_id
  LEFT JOIN lease AS l ON l.operation_id = o.operation_id
 WHERE o.operation_id = ANY ($1);
