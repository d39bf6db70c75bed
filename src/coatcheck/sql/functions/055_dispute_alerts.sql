-- What the watcher asks about disputes; one row for each subject, as alert_conditions gives them.

-- Disputes whose time to answer runs out, and orders whose money has gone both ways (D3): by a refund and by a dispute, more
-- than was captured, or in another currency, until a person has seen to it.
CREATE OR REPLACE FUNCTION dispute_alert_conditions(at timestamptz, kinds text[], evidence_due_before timestamptz)
RETURNS TABLE (kind text, subject text, subject_id uuid, shop_id uuid, mode text, since timestamptz, detail json)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT 'dispute_evidence_due', d.dispute_id::text, d.payment_id, d.shop_id, d.mode, d.evidence_due_at,
           json_build_object('dispute_id', d.dispute_id, 'payment_order_id', o.payment_order_id, 'provider', d.provider,
                             'provider_reference', d.provider_reference, 'amount_minor', d.amount_minor,
                             'currency', d.currency, 'reason', d.reason, 'is_over', d.evidence_due_at <= dispute_alert_conditions.at)
      FROM dispute_watch AS w
      JOIN dispute AS d ON d.dispute_id = w.dispute_id
      JOIN payment_order AS o ON o.order_id = d.order_id
     WHERE 'dispute_evidence_due' = ANY (kinds) AND d.status IN ('INQUIRY', 'NEEDS_RESPONSE')
       AND d.evidence_due_at <= evidence_due_before
    UNION ALL
    SELECT 'refunded_and_disputed', o.order_id::text, o.payment_id, o.shop_id, o.mode, t.since,
           json_build_object('order_id', o.order_id, 'payment_order_id', o.payment_order_id, 'currency', o.currency::text,
                             'captured_minor', o.captured_minor, 'refunded_minor', o.refunded_minor,
                             'taken', t.taken, 'provider', o.provider)
      FROM (SELECT m.order_id, max(m.since) AS since, json_object_agg(m.currency, m.taken) AS taken,
                   array_agg(m.currency) AS currencies, array_agg(m.taken) AS amounts
              FROM (SELECT d.order_id, m.currency::text AS currency, -sum(m.gross_minor) AS taken, max(m.booked_at) AS since
                      FROM dispute AS d JOIN dispute_movement AS m ON m.dispute_id = d.dispute_id
                     GROUP BY d.order_id, m.currency) AS m
             WHERE m.taken > 0
             GROUP BY m.order_id) AS t
      JOIN payment_order AS o ON o.order_id = t.order_id
     WHERE 'refunded_and_disputed' = ANY (kinds) AND o.refunded_minor > 0
       AND (EXISTS (SELECT FROM unnest(t.currencies, t.amounts) AS u (currency, amount)
                     WHERE u.currency <> o.currency::text OR u.amount + o.refunded_minor > o.captured_minor))
       -- Seen to is what a person has seen: money that moves afterwards is told again.
       AND NOT EXISTS (SELECT FROM event AS a
                        WHERE a.subject_id = o.payment_id AND a.kind = 'alert.acknowledged' AND a.at >= t.since
                          AND a.body ->> 'alert' = 'refunded_and_disputed' AND a.body ->> 'subject' = o.order_id::text);
$$;

REVOKE ALL ON FUNCTION dispute_alert_conditions FROM PUBLIC;
