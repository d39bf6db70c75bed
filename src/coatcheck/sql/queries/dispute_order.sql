-- The orders of operations ($1), and which of them can be disputed.
SELECT o.operation_id, o.order_id, o.provider, o.mode, o.kind, o.is_hosted FROM operation AS o WHERE o.operation_id = ANY ($1::uuid[])
