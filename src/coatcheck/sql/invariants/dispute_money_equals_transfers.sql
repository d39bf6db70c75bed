-- What a dispute's movements say was taken and given back, with its fees, is what the ledger has booked for it.
WITH said AS (
    SELECT dispute_id, currency::text AS currency, -sum(gross_minor) AS taken, sum(fee_minor) AS fees
      FROM dispute_movement GROUP BY dispute_id, currency
), booked AS (
    SELECT subject_id AS dispute_id, currency,
           sum(CASE kind WHEN 'chargeback' THEN amount_minor WHEN 'chargeback_reversed' THEN -amount_minor ELSE 0 END) AS taken,
           sum(CASE kind WHEN 'dispute_fee' THEN amount_minor WHEN 'dispute_fee_reversed' THEN -amount_minor ELSE 0 END) AS fees
      FROM transfer
     WHERE kind IN ('chargeback', 'chargeback_reversed', 'dispute_fee', 'dispute_fee_reversed')
     GROUP BY subject_id, currency
)
SELECT dispute_id, currency, said.taken, booked.taken AS booked_taken, said.fees, booked.fees AS booked_fees
  FROM said FULL JOIN booked USING (dispute_id, currency)
 WHERE (said.taken, said.fees) IS DISTINCT FROM (booked.taken, booked.fees);
