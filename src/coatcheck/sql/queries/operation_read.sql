-- Operations ($1) with all that running them needs, of their orders, refunds, payouts, payments and leases. A payout has
-- no order: its operation's order_id is the payout's own. The sub-select hides from the planner how many there are: it keeps
-- one plan for all, where planning anew took longer than reading.
SELECT o.operation_id, o.attempt, o.tries, o.kind, o.status, o.order_id, o.payment_id, o.shop_id, o.mode, o.provider,
       o.amount_minor, o.currency::text AS currency, o.body, o.first_sent_at, o.provider_reference, o.target_reference,
       o.is_final, o.is_hosted, o.cause, o.created_at,
       coalesce(p.seller_account, q.seller_account) AS seller_account, coalesce(p.commission_minor, 0) AS commission_minor,
       coalesce(p.status, 'EXECUTING') AS order_status, coalesce(p.authorized_minor, 0) AS authorized_minor,
       coalesce(p.captured_minor, 0) AS captured_minor, p.acting IS NOT NULL AS is_acting,
       o.refund_id, r.commission_minor AS refund_commission_minor, r.status AS refund_status, q.status AS payout_status,
       q.key AS payout_key, q.run_id AS payout_run_id,
       coalesce(y.capture, 'automatic') AS capture, coalesce(y.on_failure, 'keep') AS on_failure,
       l.attempt AS lease_attempt, l.holder, l.due_at
  FROM operation AS o
  LEFT JOIN payment_order AS p ON p.order_id = o.order_id
  LEFT JOIN payment AS y ON y.payment_id = o.payment_id
  LEFT JOIN refund AS r ON r.refund_id = o.refund_id
  LEFT JOIN payout AS q ON o.kind = 'payout' AND q.payout_id = o.order_id
  LEFT JOIN lease AS l ON l.operation_id = o.operation_id
 WHERE o.operation_id = ANY ((SELECT $1::uuid[])::uuid[]) AND (p.order_id IS NOT NULL OR q.payout_id IS NOT NULL);
