-- What moved on a seller's accounts ($3, their names) from $4 until before $5, oldest first, at most $6.
-- $1 shop_id, $2 mode
WITH mine AS (
    SELECT account_id, currency::text AS currency, name
      FROM account WHERE shop_id = $1 AND mode = $2 AND name = ANY ($3)
)
SELECT t.currency, t.at, t.transfer_id, t.kind, t.subject_id, t.amount_minor, d.name AS taken_from, c.name AS given_to,
       CASE WHEN EXISTS (SELECT FROM payout AS p WHERE p.payout_id = t.subject_id) THEN 'out'
            WHEN EXISTS (SELECT FROM payment AS p WHERE p.payment_id = t.subject_id) THEN 'pay' END AS prefix
  FROM transfer AS t
  LEFT JOIN mine AS d ON d.account_id = t.debit_account_id
  LEFT JOIN mine AS c ON c.account_id = t.credit_account_id
 WHERE t.at >= $4 AND t.at < $5 AND t.phase IN ('posted', 'captured')
   AND (d.account_id IS NOT NULL OR c.account_id IS NOT NULL)
 ORDER BY t.currency, t.at, t.transfer_id
 LIMIT $6
