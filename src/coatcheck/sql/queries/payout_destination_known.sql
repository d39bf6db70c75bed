-- Whether there is anywhere to pay a seller to. $1 shop_id, $2 mode, $3 seller_account, $4 currency
SELECT true FROM payout_destination WHERE shop_id = $1 AND mode = $2 AND seller_account = $3 AND currency = $4
