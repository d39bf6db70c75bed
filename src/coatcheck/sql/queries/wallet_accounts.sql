-- The accounts of a seller's wallet that were open at a moment ($4), by their names ($3).
SELECT account_id, name, currency FROM account
WHERE shop_id = $1 AND mode = $2 AND name = ANY ($3::text[]) AND opened_at <= $4
ORDER BY currency, name
