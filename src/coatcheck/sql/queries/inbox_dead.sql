-- Events that wait for a person, oldest first, after the place ($1, $2), at most $3. $4 provider, $5 a part of the cause and
-- $6 mode: NULL is any. $7: received no later.
SELECT i.inbox_id, i.provider, i.mode, i.account, i.event_id, i.received_at, i.headers::text AS headers, i.raw, i.outcome,
       i.handled_at, l.attempt, l.due_at, l.cause
  FROM inbox_lease AS l
  JOIN inbox AS i ON i.inbox_id = l.inbox_id
 WHERE l.due_at IS NULL
   AND (i.received_at, i.inbox_id) > ($1::timestamptz, $2::uuid)
   AND ($4::text IS NULL OR i.provider = $4) AND ($5::text IS NULL OR strpos(lower(l.cause), lower($5)) > 0)
   AND ($6::text IS NULL OR i.mode = $6) AND i.received_at <= $7::timestamptz
 ORDER BY i.received_at, i.inbox_id
 LIMIT $3
