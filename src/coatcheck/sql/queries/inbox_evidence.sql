-- The last $2 events about a stored event of a PSP ($1), newest first.
SELECT kind, at, body::text AS body FROM event WHERE subject_id = $1 ORDER BY at DESC, event_id DESC LIMIT $2
