-- Every key with its shop, revoked ones too, oldest first.
SELECT k.key_id, k.shop_id, s.name AS shop_name, k.mode, k.prefix, k.last_four, k.created_at, k.revoked_at
  FROM api_key AS k JOIN shop AS s USING (shop_id)
 ORDER BY s.name, k.mode, k.created_at, k.key_id
