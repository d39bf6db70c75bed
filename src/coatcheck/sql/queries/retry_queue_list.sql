-- Operations that go on by themselves, oldest first, after the place ($3, $4), at most $5. $1 shop and $2 mode: NULL is all.
-- $6 provider and $7 a part of the cause: NULL is any. $8: made no later. $9: only this operation; NULL is any. $10: now; what
-- a gateway has under way for the first time at this moment is no retry.
-- The leases are read whole, for they are what is undecided. OFFSET 0 keeps the planner from anything but one look at the
-- primary key for each, whatever it believes of their number: the table of operations may have tens of millions of rows.
SELECT q.operation_id, p.payment_order_id
  FROM (SELECT o.operation_id, o.order_id, o.created_at
          FROM lease AS l
         CROSS JOIN LATERAL (
               SELECT c.operation_id, c.order_id, c.shop_id, c.mode, c.status, c.cause, c.created_at
                 FROM operation AS c WHERE c.operation_id = l.operation_id OFFSET 0
               ) AS o
         WHERE l.due_at IS NOT NULL AND o.status IN ('OPEN', 'PENDING')
           AND NOT (l.attempt = 1 AND l.holder IS NOT NULL AND l.due_at > $10::timestamptz)
           AND ($1::uuid IS NULL OR o.shop_id = $1) AND ($2::text IS NULL OR o.mode = $2)
           AND (o.created_at, o.operation_id) > ($3::timestamptz, $4::uuid)
           AND ($6::text IS NULL OR l.provider = $6) AND ($7::text IS NULL OR strpos(lower(o.cause), lower($7)) > 0)
           AND o.created_at <= $8::timestamptz
           AND ($9::uuid IS NULL OR l.operation_id = $9)
         ORDER BY o.created_at, o.operation_id
         LIMIT $5) AS q
  LEFT JOIN LATERAL (SELECT r.payment_order_id FROM payment_order AS r WHERE r.order_id = q.order_id OFFSET 0) AS p ON true
 ORDER BY q.created_at, q.operation_id
