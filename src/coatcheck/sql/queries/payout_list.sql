-- A shop's payouts, newest first, before the place ($3, $4), at most $5. $6 seller, $7 status, $8 run: NULL is any.
SELECT payout_id, shop_id, mode, seller_account, currency, amount_minor, provider, destination, run_id, status,
       decline_code, provider_reference, created_at, decided_at
  FROM payout
 WHERE shop_id = $1 AND mode = $2 AND (created_at, payout_id) < ($3::timestamptz, $4::uuid)
   AND ($6::text IS NULL OR seller_account = $6) AND ($7::text IS NULL OR status = $7)
   AND ($8::uuid IS NULL OR run_id = $8)
 ORDER BY created_at DESC, payout_id DESC
 LIMIT $5
