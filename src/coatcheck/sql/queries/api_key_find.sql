-- The keys a person may mean: by id, by what the key begins with, or by its last four. $1 key_id or null, $2 text
SELECT k.key_id, k.shop_id, s.name AS shop_name, k.mode, k.prefix, k.last_four, k.created_at, k.revoked_at
  FROM api_key AS k JOIN shop AS s USING (shop_id)
 WHERE k.key_id = $1 OR k.prefix = $2 OR k.last_four = $2
 ORDER BY k.created_at, k.key_id
