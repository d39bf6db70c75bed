-- What was set for a seller ($3) of a shop ($1) and mode ($2).
SELECT hold_days, reserve_basis_points, reserve_days, set_by, set_at FROM seller_terms
WHERE shop_id = $1 AND mode = $2 AND seller_account = $3
