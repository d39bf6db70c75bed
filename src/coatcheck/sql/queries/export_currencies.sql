-- The currencies of a shop's ($1) and mode's ($2) accounts.
SELECT DISTINCT currency::text AS currency FROM account WHERE shop_id = $1 AND mode = $2 ORDER BY currency
