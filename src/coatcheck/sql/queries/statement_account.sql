-- One account by its id ($1), with what was hashed to make the id: it is compared, never assumed.
SELECT account_id, shop_id, mode, name, kind, currency, normal_side
  FROM account JOIN account_kind USING (kind)
 WHERE account_id = $1
