-- Every payout has one operation of its amount, and says what that says; one that is asked about again keeps its word.
SELECT p.payout_id, p.status AS payout_status, o.status AS operation_status
  FROM payout AS p FULL JOIN (SELECT * FROM operation WHERE kind = 'payout') AS o ON o.order_id = p.payout_id
 WHERE p.payout_id IS NULL OR o.operation_id IS NULL OR p.amount_minor <> o.amount_minor
    OR p.currency <> o.currency::text OR p.destination <> o.target_reference OR p.provider <> o.provider
    OR CASE o.status WHEN 'APPROVED' THEN p.status <> 'PAID' WHEN 'DECLINED' THEN p.status NOT IN ('FAILED', 'RETURNED')
                     WHEN 'OPEN' THEN p.status <> 'PENDING' ELSE p.status = 'RETURNED' END;
