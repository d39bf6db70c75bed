-- The live key of this id, with its shop. $1 key_id
SELECT k.key_id, k.key_digest, k.mode, k.shop_id, s.name AS shop_name
  FROM api_key AS k JOIN shop AS s USING (shop_id)
 WHERE k.key_id = $1 AND k.revoked_at IS NULL
