-- Operations that wait for a person, oldest first, after the place ($3, $4), at most $5. $1 shop and $2 mode: NULL is all.
-- $6 provider and $7 a part of the cause: NULL is any. $8: made no later. $9: leave out what is being asked about already.
-- $10: only these operations; NULL is any.
SELECT 'operation' AS kind, o.operation_id, o.created_at, coalesce(p.payment_order_id, '') AS payment_order_id,
       l.holder IS NOT NULL OR l.due_at IS NOT NULL AS is_retrying,
       r.proposal_id, r.word, r.provider_reference, r.reason, r.proposed_by, r.proposed_at, r.expires_at, r.confirmed_by,
       r.confirmed_at
  FROM lease AS l
  JOIN operation AS o ON o.operation_id = l.operation_id
  LEFT JOIN payment_order AS p ON p.order_id = o.order_id
  LEFT JOIN resolution AS r ON r.operation_id = o.operation_id
 WHERE o.status = 'UNRESOLVED'
   AND ($1::uuid IS NULL OR o.shop_id = $1) AND ($2::text IS NULL OR o.mode = $2)
   AND (o.created_at, o.operation_id) > ($3::timestamptz, $4::uuid)
   AND ($6::text IS NULL OR o.provider = $6) AND ($7::text IS NULL OR strpos(lower(o.cause), lower($7)) > 0)
   AND o.created_at <= $8::timestamptz
   AND NOT ($9::boolean AND (l.holder IS NOT NULL OR l.due_at IS NOT NULL))
   AND ($10::uuid[] IS NULL OR o.operation_id = ANY ($10))
 ORDER BY o.created_at, o.operation_id
 LIMIT $5
