-- What a seller's accounts ($3, their names) held at the moment $4: as they stand now, less what was moved since.
-- $1 shop_id, $2 mode
WITH mine AS (
    SELECT account_id, currency::text AS currency, name, credits_posted_minor - debits_posted_minor AS now_minor
      FROM account WHERE shop_id = $1 AND mode = $2 AND name = ANY ($3)
), since AS (
    SELECT side.account_id, sum(side.minor) AS moved_minor
      FROM transfer AS t
     CROSS JOIN LATERAL (VALUES (t.credit_account_id, t.amount_minor), (t.debit_account_id, -t.amount_minor))
           AS side (account_id, minor)
     WHERE t.at >= $4 AND t.phase IN ('posted', 'captured')
       AND side.account_id = ANY (ARRAY(SELECT account_id FROM mine))
     GROUP BY side.account_id
)
SELECT currency, name, (now_minor - coalesce(moved_minor, 0))::bigint AS balance_minor
  FROM mine LEFT JOIN since USING (account_id)
 ORDER BY currency, name
