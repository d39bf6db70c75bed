-- The last $3 events of a payment ($1) that speak of one operation ($2), newest first.
SELECT event_id, kind, at, body::text AS body
  FROM event
 WHERE subject_id = $1 AND body ->> 'operation_id' = $2::uuid::text
 ORDER BY event_id DESC
 LIMIT $3
