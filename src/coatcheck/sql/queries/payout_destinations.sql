-- Where a seller's money goes, for each currency. $1 shop_id, $2 mode, $3 seller_account
SELECT currency, provider, token, changed_by, changed_at, usable_from
  FROM payout_destination WHERE shop_id = $1 AND mode = $2 AND seller_account = $3 ORDER BY currency
