-- A key, its shop if that is new, and the event, in one commit. Returns no row when the shop's id is taken by another name.
-- $1 shop_id, $2 shop name, $3 mode, $4 key_id, $5 key_digest, $6 prefix, $7 last_four, $8 event_id, $9 event kind, $10 at
WITH new_shop AS (
    INSERT INTO shop (shop_id, name, created_at)
    VALUES ($1, $2, $10)
    ON CONFLICT DO NOTHING
), new_key AS (
    INSERT INTO api_key (key_id, shop_id, mode, key_digest, prefix, last_four, created_at)
    SELECT $4::uuid, $1::uuid, $3::text, $5::bytea, $6::text, $7::text, $10::timestamptz
     WHERE NOT EXISTS (SELECT 1 FROM shop WHERE shop_id = $1 AND name <> $2)
    RETURNING *
)
INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
SELECT key_id, $8::uuid, $9::text, shop_id, mode, created_at,
       json_build_object('key_id', key_id, 'shop_id', shop_id, 'shop_name', $2::text, 'mode', mode,
                         'key_digest', encode(key_digest, 'hex'), 'prefix', prefix, 'last_four', last_four)
  FROM new_key
RETURNING subject_id
