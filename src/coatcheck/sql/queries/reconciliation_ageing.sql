-- Every clearing account of a shop ($1) and mode ($2) with its balance, and beside it what makes it up, by age at $3: of
-- each part how many there are and their sums for up to 1, 5 and 30 days, and older. Minor units, on the account's own side.
-- What a part cannot say of the balance is no part: the reader has it as the difference.
WITH returned AS MATERIALIZED (
    -- A refund that came back stands in the books twice, there and back.
    SELECT o.operation_id, max(e.at) AS at
      FROM refund AS r
      JOIN operation AS o ON o.refund_id = r.refund_id
      JOIN event AS e ON e.subject_id = o.payment_id AND e.kind = 'refund.returned'
                     AND e.body ->> 'operation_id' = o.operation_id::text
     WHERE r.status = 'FAILED' AND o.shop_id = $1 AND o.mode = $2
     GROUP BY o.operation_id
), paid_out AS MATERIALIZED (
    -- What sellers were paid, and what of it came back: out of what a PSP owes us, or from our account at a bank.
    SELECT p.payout_id, coalesce(p.run_id, p.payout_id)::text AS batch, p.provider, p.currency::text AS currency, k.kind,
           told_minor_of(k.kind, p.amount_minor) AS amount_minor, t.at AS since,
           paid_from_balance(p.payout_id) AS is_from_balance
      FROM payout AS p
     CROSS JOIN (VALUES ('payout_paid', 'seller_payout'), ('payout_returned', 'seller_payout_returned'))
           AS k (transfer, kind)
      JOIN transfer AS t ON t.transfer_id = derived_id('payout transfer', hex_of(p.payout_id), k.transfer)
     WHERE p.shop_id = $1 AND p.mode = $2 AND p.status IN ('PAID', 'RETURNED')
), booked AS (
    -- What the receivable has of each record of ours.
    SELECT o.operation_id, o.provider, o.currency::text AS currency, k.kind,
           CASE k.kind WHEN 'refund' THEN -o.amount_minor ELSE o.amount_minor END AS amount_minor,
           CASE k.kind WHEN 'refund_returned' THEN b.at ELSE o.decided_at END AS since
      FROM operation AS o
      LEFT JOIN returned AS b ON b.operation_id = o.operation_id
     CROSS JOIN (VALUES ('charge'), ('refund'), ('refund_returned')) AS k (kind)
     WHERE o.shop_id = $1 AND o.mode = $2
       AND CASE k.kind WHEN 'charge' THEN o.kind IN ('charge', 'capture') AND o.status = 'APPROVED'
                       WHEN 'refund' THEN o.kind = 'refund' AND (o.status = 'APPROVED' OR b.at IS NOT NULL)
                       ELSE o.kind = 'refund' AND b.at IS NOT NULL END
    UNION ALL
    SELECT operation_id_of(p.payout_id, 'payout', '1'), p.provider, p.currency, p.kind, p.amount_minor, p.since
      FROM paid_out AS p WHERE p.is_from_balance
), item AS (
    SELECT 'psp:' || b.provider || ':receivable' AS name, b.currency, 'unsettled_records' AS part, b.amount_minor, b.since
      FROM booked AS b
     WHERE NOT EXISTS (SELECT FROM settled_record AS s
                         JOIN settlement_line AS l ON l.file_id = s.file_id AND l.line_no = s.line_no
                        WHERE s.operation_id = b.operation_id AND s.kind = b.kind
                          AND coalesce(l.asked_currency, l.currency) = b.currency)
    UNION ALL
    SELECT 'psp:' || r.provider || ':receivable', r.currency, 'batches_not_paid_out', r.rest_minor, r.told_at
      FROM batch_rest AS r
     WHERE r.shop_id = $1 AND r.mode = $2 AND r.rest_minor <> 0
    UNION ALL
    -- What was taken out of suspense since, and what the books have by now of a record that they had not when its line came.
    SELECT 'psp:' || k.provider || ':receivable', k.currency, 'explained_breaks', c.amount_minor,
           coalesce(k.closed_at, k.opened_at)
      FROM reconciliation_break AS k
      JOIN settlement_batch AS r ON r.shop_id = k.shop_id AND r.mode = k.mode AND r.provider = k.provider
                                AND r.batch = k.batch AND r.currency = k.currency AND r.file_id = k.file_id
      LEFT JOIN settled_record AS s ON s.file_id = k.file_id AND s.line_no = k.line_no
      LEFT JOIN booked AS b ON b.operation_id = s.operation_id AND b.kind = s.kind AND b.currency = k.currency
     CROSS JOIN LATERAL (
           SELECT coalesce(b.amount_minor, 0) - (k.stated_minor - k.suspense_minor)
                  - CASE WHEN k.closed_at IS NULL THEN 0 ELSE k.suspense_minor END AS amount_minor) AS c
     WHERE k.shop_id = $1 AND k.mode = $2 AND k.suspense_minor <> 0 AND c.amount_minor <> 0
    UNION ALL
    SELECT 'psp:' || b.provider || ':payouts_in_transit', b.currency, 'unconfirmed_payouts', b.payout_minor - c.minor,
           r.told_at
      FROM settlement_batch AS b
      JOIN batch_rest AS r ON r.shop_id = b.shop_id AND r.mode = b.mode AND r.provider = b.provider
                          AND r.batch = b.batch AND r.currency = b.currency
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(f.amount_minor), 0)::bigint AS minor FROM confirmed_payout AS f
            WHERE f.shop_id = b.shop_id AND f.mode = b.mode AND f.kind = 'psp_payout' AND f.provider = b.provider
              AND f.batch = b.batch AND f.currency = b.currency) AS c
     WHERE b.shop_id = $1 AND b.mode = $2 AND b.payout_minor <> c.minor
    UNION ALL
    SELECT 'bank:' || p.provider, p.currency, 'unconfirmed_seller_payouts', p.amount_minor, p.since
      FROM paid_out AS p
     WHERE NOT p.is_from_balance
       AND NOT EXISTS (SELECT FROM confirmed_payout AS f
                        WHERE (f.shop_id, f.mode, f.kind, f.provider, f.batch, f.currency, f.payout)
                              = ($1, $2, p.kind, p.provider, p.batch, p.currency, p.payout_id::text))
    UNION ALL
    SELECT 'suspense:' || k.provider, k.currency, 'open_breaks', -k.suspense_minor, k.opened_at
      FROM reconciliation_break AS k
     WHERE k.shop_id = $1 AND k.mode = $2 AND k.closed_at IS NULL AND k.suspense_minor <> 0
    UNION ALL
    -- Payouts to sellers, each by what it is about.
    SELECT a.name, a.currency::text, 'payouts_in_transit', sum(t.amount_minor)::bigint, min(t.at)
      FROM account AS a
      JOIN (SELECT credit_account_id AS account_id, subject_id, amount_minor, at FROM transfer
             WHERE phase IN ('posted', 'captured')
            UNION ALL
            SELECT debit_account_id, subject_id, -amount_minor, at FROM transfer
             WHERE phase IN ('posted', 'captured')) AS t ON t.account_id = a.account_id
     WHERE a.shop_id = $1 AND a.mode = $2 AND a.kind = 'payouts_in_transit'
       AND a.credits_posted_minor <> a.debits_posted_minor
     GROUP BY a.account_id, a.name, a.currency, t.subject_id
    HAVING sum(t.amount_minor) <> 0
), aged AS (
    SELECT i.name, i.currency, i.part, count(*) AS items,
           coalesce(sum(i.amount_minor) FILTER (WHERE g.age < interval '2 days'), 0)::bigint AS day_1_minor,
           coalesce(sum(i.amount_minor) FILTER (WHERE g.age >= interval '2 days' AND g.age < interval '6 days'), 0)::bigint
               AS day_5_minor,
           coalesce(sum(i.amount_minor) FILTER (WHERE g.age >= interval '6 days' AND g.age < interval '31 days'), 0)::bigint
               AS day_30_minor,
           coalesce(sum(i.amount_minor) FILTER (WHERE g.age >= interval '31 days'), 0)::bigint AS older_minor
      FROM item AS i
     CROSS JOIN LATERAL (SELECT $3::timestamptz - i.since AS age) AS g
     GROUP BY i.name, i.currency, i.part
)
SELECT a.name, a.kind, a.currency::text AS currency,
       CASE k.normal_side WHEN 'debit' THEN a.debits_posted_minor - a.credits_posted_minor
                          ELSE a.credits_posted_minor - a.debits_posted_minor END AS balance_minor,
       g.part, g.items, g.day_1_minor, g.day_5_minor, g.day_30_minor, g.older_minor
  FROM account AS a
  JOIN account_kind AS k ON k.kind = a.kind
  LEFT JOIN aged AS g ON g.name = a.name AND g.currency = a.currency
 WHERE a.shop_id = $1 AND a.mode = $2
   AND (a.kind IN ('psp_receivable', 'psp_payouts_in_transit', 'suspense', 'payouts_in_transit') OR g.part IS NOT NULL)
 ORDER BY a.currency, a.name, g.part
