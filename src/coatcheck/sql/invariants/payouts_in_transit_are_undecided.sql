-- What is on its way to sellers is the sum of the payouts that are not decided, for each seller and currency.
WITH under_way AS (
    SELECT shop_id, mode, 'payouts:in_transit:' || seller_account AS name, currency::text AS currency,
           sum(amount_minor) AS undecided
      FROM payout WHERE status = 'PENDING' GROUP BY 1, 2, 3, 4
), booked AS (
    SELECT shop_id, mode, name, currency::text AS currency, credits_posted_minor - debits_posted_minor AS in_transit
      FROM account WHERE kind = 'payouts_in_transit'
)
SELECT shop_id, mode, name, currency, undecided, in_transit
  FROM under_way FULL JOIN booked USING (shop_id, mode, name, currency)
 WHERE coalesce(undecided, 0) <> coalesce(in_transit, 0);
