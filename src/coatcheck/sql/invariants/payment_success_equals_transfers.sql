-- The ledger holds exactly the charges of the successful orders: per payment and currency, what the transfers of kind
-- charge and commission move is what its successful orders add up to.
WITH orders AS (
    SELECT payment_id, currency, sum(amount_minor) AS amount_minor
      FROM payment_order WHERE status = 'SUCCESS' GROUP BY payment_id, currency
), moved AS (
    SELECT subject_id AS payment_id, currency, sum(amount_minor) AS amount_minor
      FROM transfer WHERE kind IN ('charge', 'commission') AND phase IN ('posted', 'captured')
     GROUP BY subject_id, currency
)
SELECT payment_id, currency, orders.amount_minor AS ordered_minor, moved.amount_minor AS moved_minor
  FROM orders FULL JOIN moved USING (payment_id, currency)
 WHERE orders.amount_minor IS DISTINCT FROM moved.amount_minor;
