-- A subject's events in order, after the event $2, at most $3.
SELECT event_id, kind, at, body::text AS body
  FROM event
 WHERE subject_id = $1 AND event_id > $2
 ORDER BY event_id
 LIMIT $3
