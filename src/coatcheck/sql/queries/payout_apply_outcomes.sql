-- Book a batch of decisions about payouts; see functions/110_payouts.sql for the columns.
SELECT place, outcome
  FROM apply_payout_outcomes($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                             $21)
