-- Every account of a shop ($1) and mode ($2); the balance counts on the side that makes the account grow.
SELECT currency, kind, account_id, name, debits_posted_minor, credits_posted_minor,
       debits_pending_minor, credits_pending_minor,
       CASE normal_side WHEN 'debit' THEN debits_posted_minor - credits_posted_minor
                        ELSE credits_posted_minor - debits_posted_minor END AS balance_minor
FROM account JOIN account_kind USING (kind)
WHERE shop_id = $1 AND mode = $2
ORDER BY currency, name
