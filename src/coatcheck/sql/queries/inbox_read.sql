-- One stored event ($1); its lease is there until it is handled.
SELECT i.inbox_id, i.provider, i.mode, i.account, i.event_id, i.received_at, i.headers::text AS headers, i.raw, i.outcome,
       i.handled_at, l.attempt, l.due_at, l.cause
  FROM inbox AS i
  LEFT JOIN inbox_lease AS l ON l.inbox_id = i.inbox_id
 WHERE i.inbox_id = $1
