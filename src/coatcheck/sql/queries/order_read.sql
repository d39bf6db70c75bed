-- One payment order with its payment's names. $1 order_id
SELECT o.payment_order_id, o.seller_account, o.amount_minor, o.commission_minor, o.currency::text AS currency, o.provider,
       o.status, o.decline_code, o.provider_reference, o.authorized_minor, o.captured_minor, o.refunded_minor, o.redirect_url,
       o.expires_at, o.acting IS NOT NULL AS is_acting,
       o.payment_id, o.shop_id, o.mode, p.checkout_id, o.created_at, o.decided_at
  FROM payment_order AS o JOIN payment AS p USING (payment_id)
 WHERE o.order_id = $1
