-- Payouts ($1) as they stand.
SELECT payout_id, shop_id, mode, seller_account, currency, amount_minor, provider, destination, run_id, status,
       decline_code, provider_reference, created_at, decided_at
  FROM payout WHERE payout_id = ANY ($1)
