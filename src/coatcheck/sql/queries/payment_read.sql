-- Payments with their orders, in the order the shop gave them. The sub-select hides from the planner how many there are: it
-- keeps one plan for all, where planning anew took longer than reading.
SELECT p.payment_id, p.shop_id, p.mode, p.checkout_id, p.metadata, p.risk_decision, p.created_at, p.capture, p.on_failure,
       b.reference AS buyer_reference,
       o.payment_order_id, o.seller_account, o.amount_minor, o.commission_minor, o.currency::text AS currency,
       o.provider, o.status, o.decline_code, o.provider_reference, o.authorized_minor, o.captured_minor, o.refunded_minor,
       o.redirect_url, o.expires_at, o.acting IS NOT NULL AS is_acting
  FROM unnest((SELECT $1::uuid[])) AS wanted (payment_id)
  JOIN payment AS p USING (payment_id)
 CROSS JOIN LATERAL unnest(p.order_ids) WITH ORDINALITY AS listed (order_id, place)
  JOIN payment_order AS o ON o.order_id = listed.order_id
  LEFT JOIN buyer AS b ON b.buyer_id = p.buyer_id
 ORDER BY p.payment_id, listed.place;
