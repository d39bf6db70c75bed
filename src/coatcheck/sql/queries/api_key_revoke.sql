-- Ends a key and writes the event, in one commit; returns no row when it had ended before.
-- $1 key_id, $2 at, $3 event_id, $4 event kind
WITH revoked AS (
    UPDATE api_key SET revoked_at = $2
     WHERE key_id = $1 AND revoked_at IS NULL
    RETURNING *
)
INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
SELECT key_id, $3::uuid, $4::text, shop_id, mode, revoked_at,
       json_build_object('key_id', key_id, 'shop_id', shop_id, 'mode', mode)
  FROM revoked
RETURNING subject_id
