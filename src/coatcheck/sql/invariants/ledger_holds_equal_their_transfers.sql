-- Every hold is what its transfers say: held once, and captured and released by exactly the transfers that name it.
WITH made AS (
    SELECT transfer_id AS hold_id, debit_account_id, credit_account_id, currency, amount_minor
    FROM transfer WHERE phase = 'held'
), ended AS (
    SELECT hold_id, coalesce(sum(amount_minor) FILTER (WHERE phase = 'captured'), 0) AS captured,
           coalesce(sum(amount_minor) FILTER (WHERE phase = 'released'), 0) AS released
    FROM transfer WHERE hold_id IS NOT NULL GROUP BY hold_id
)
SELECT hold_id, hold.amount_minor, captured_minor, captured, released_minor, released
FROM hold FULL JOIN made USING (hold_id) FULL JOIN ended USING (hold_id)
WHERE made.amount_minor IS NULL OR hold.amount_minor IS NULL
   OR (hold.debit_account_id, hold.credit_account_id, hold.currency, hold.amount_minor)
      <> (made.debit_account_id, made.credit_account_id, made.currency, made.amount_minor)
   OR captured_minor <> coalesce(captured, 0) OR released_minor <> coalesce(released, 0)
