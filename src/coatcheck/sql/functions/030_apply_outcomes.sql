-- T2: one commit per fact. A batch of the PSP's decisions becomes outcomes, order statuses, ledger transfers, balances,
-- events and risk counts. The lease row is the fence: only who takes it away with the right attempt number books the
-- decision, so a decision is booked once however often it arrives. Returns one row per operation: applied | fenced.
-- g_ arrays have one element per operation; t_ arrays one per transfer, whose position names the operation (from 1).
-- x_ arrays, one element per operation, are NULL when every operation is a usual charge; t_phase and t_hold_id are NULL
-- when every transfer is posted at once:
--   x_starts          the operation is its order's first: decline code and reference are the order's, too
--   x_authorized_minor, x_captured_minor, x_reserved_minor, x_refunded_minor, x_commission_minor  added to the order's counts
--   x_seen_minor      what was left of the reservation when this was worked out; it must still be so. NULL: does not matter
--   x_refund_id, x_refund_status, x_ends (the charge or authorization that a void ends), x_expires_at
--   x_is_joint        of an all-or-nothing checkout: its next step is decided in this same commit
--   x_is_late         succeeded after it was given up, and policy says to give it back
CREATE OR REPLACE FUNCTION apply_outcomes(
    decided_at timestamptz,
    g_operation_id uuid[], g_attempt integer[], g_status text[], g_order_id uuid[], g_order_status text[],
    g_provider_reference text[], g_decline_code text[], g_payment_id uuid[], g_shop_id uuid[], g_mode text[],
    g_event_id uuid[], g_event_kind text[], g_event_body text[],
    x_starts boolean[], x_authorized_minor bigint[], x_captured_minor bigint[], x_reserved_minor bigint[],
    x_refunded_minor bigint[], x_commission_minor bigint[], x_seen_minor bigint[], x_refund_id uuid[],
    x_refund_status text[], x_ends uuid[], x_expires_at timestamptz[], x_is_joint boolean[], x_is_late boolean[],
    t_position integer[], t_transfer_id uuid[], t_kind text[], t_debit uuid[], t_credit uuid[], t_amount_minor bigint[],
    t_currency text[], t_subject_id uuid[], t_phase text[], t_hold_id uuid[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    won integer[];          -- positions whose lease we took away, in array order
    every_one boolean;
    moved_operations integer;
    moved_orders integer;
    ended_places integer[];
    ended_attempts integer[];
    refused text;
BEGIN
    WITH taken AS (
        DELETE FROM lease AS l
         USING unnest(g_operation_id, g_attempt) WITH ORDINALITY AS g (operation_id, attempt, n)
         WHERE l.operation_id = g.operation_id AND l.attempt = g.attempt
     RETURNING g.n
    )
    SELECT coalesce(array_agg(n), '{}') INTO won FROM taken;
    every_one := cardinality(won) = cardinality(g_operation_id);

    UPDATE operation AS o
       SET status = g.status, decided_at = apply_outcomes.decided_at, cause = NULL, decline_code = g.decline_code,
           provider_reference = coalesce(g.provider_reference, o.provider_reference)
      FROM unnest(g_operation_id, g_status, g_provider_reference, g_decline_code)
           WITH ORDINALITY AS g (operation_id, status, provider_reference, decline_code, n)
     WHERE o.operation_id = g.operation_id AND (every_one OR g.n = ANY (won))
       AND operation_may_become(o.status, g.status);
    GET DIAGNOSTICS moved_operations = ROW_COUNT;

    IF x_starts IS NULL THEN
        UPDATE payment_order AS o
           SET status = g.status, decided_at = apply_outcomes.decided_at, decline_code = g.decline_code,
               provider_reference = g.provider_reference,
               authorized_minor = CASE g.status WHEN 'SUCCESS' THEN o.amount_minor ELSE 0 END,
               captured_minor = CASE g.status WHEN 'SUCCESS' THEN o.amount_minor ELSE 0 END
          FROM unnest(g_order_id, g_order_status, g_provider_reference, g_decline_code)
               WITH ORDINALITY AS g (order_id, status, provider_reference, decline_code, n)
         WHERE o.order_id = g.order_id AND (every_one OR g.n = ANY (won)) AND order_may_become(o.status, g.status);
        GET DIAGNOSTICS moved_orders = ROW_COUNT;
        moved_orders := moved_orders - cardinality(won);
    ELSE
        SELECT a.lacking, a.ended_places, a.ended_attempts INTO moved_orders, ended_places, ended_attempts
          FROM apply_to_orders(
            decided_at, won, g_operation_id, g_order_id, g_order_status, g_provider_reference, g_decline_code,
            x_starts, x_authorized_minor, x_captured_minor, x_reserved_minor, x_refunded_minor, x_commission_minor,
            x_seen_minor, x_refund_id, x_refund_status, x_ends, x_expires_at, x_is_late
        ) AS a;
        IF ended_places IS NOT NULL THEN  -- a void's event tells which attempt it has ended, if it has
            g_event_body := ARRAY(
                SELECT CASE WHEN e.attempt IS NULL THEN g.body
                            ELSE with_field(g.body, 'ended_attempt', to_json(e.attempt)) END
                  FROM unnest(g_event_body) WITH ORDINALITY AS g (body, n)
                  LEFT JOIN unnest(ended_places, ended_attempts) AS e (n, attempt) ON e.n = g.n
                 ORDER BY g.n);
        END IF;
    END IF;
    IF moved_operations <> cardinality(won) OR moved_orders <> 0 THEN
        RAISE EXCEPTION 'a decision would take an order or operation a way that states do not allow'
            USING ERRCODE = 'check_violation';
    END IF;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.payment_id, g.event_id, g.kind, g.shop_id, g.mode, apply_outcomes.decided_at, g.body::json
      FROM unnest(g_payment_id, g_event_id, g_event_kind, g_shop_id, g_mode, g_event_body)
           WITH ORDINALITY AS g (payment_id, event_id, kind, shop_id, mode, body, n)
     WHERE every_one OR g.n = ANY (won);

    IF 'DECLINED' = ANY (g_status) THEN
        INSERT INTO risk_failure (subject, at)
        SELECT unnest(p.risk_subjects), apply_outcomes.decided_at
          FROM unnest(g_payment_id, g_order_status, g_status) WITH ORDINALITY AS g (payment_id, order_status, status, n)
          JOIN payment AS p ON p.payment_id = g.payment_id
         WHERE g.status = 'DECLINED' AND g.order_status = 'FAILED' AND (every_one OR g.n = ANY (won));
    END IF;

    IF true = ANY (x_is_joint) THEN
        PERFORM settle_checkouts(decided_at, ARRAY(
            SELECT DISTINCT g.payment_id FROM unnest(g_payment_id, x_is_joint) WITH ORDINALITY AS g (payment_id, is_joint, n)
             WHERE g.is_joint AND g.n = ANY (won)
        ));
    END IF;

    -- The ledger last: its account locks are the only ones another batch may wait for, so they are held shortest.
    IF NOT every_one THEN
        SELECT array_agg(t.transfer_id ORDER BY t.n), array_agg(t.kind ORDER BY t.n), array_agg(t.debit ORDER BY t.n),
               array_agg(t.credit ORDER BY t.n), array_agg(t.amount_minor ORDER BY t.n),
               array_agg(t.currency ORDER BY t.n), array_agg(t.subject_id ORDER BY t.n),
               CASE WHEN t_phase IS NOT NULL THEN array_agg(t.phase ORDER BY t.n) END,
               CASE WHEN t_hold_id IS NOT NULL THEN array_agg(t.hold_id ORDER BY t.n) END
          INTO t_transfer_id, t_kind, t_debit, t_credit, t_amount_minor, t_currency, t_subject_id, t_phase, t_hold_id
          FROM unnest(t_position, t_transfer_id, t_kind, t_debit, t_credit, t_amount_minor, t_currency, t_subject_id,
                      t_phase, t_hold_id)
               WITH ORDINALITY
               AS t (position, transfer_id, kind, debit, credit, amount_minor, currency, subject_id, phase, hold_id, n)
         WHERE t.position = ANY (won);
    END IF;
    IF cardinality(t_transfer_id) > 0 THEN
        SELECT string_agg(DISTINCT posted.outcome, ', ') INTO refused
          FROM ledger_post(t_transfer_id, t_kind, t_phase, t_hold_id, t_debit, t_credit, t_amount_minor, t_currency,
                           t_subject_id, apply_outcomes.decided_at) AS posted
         WHERE posted.outcome NOT IN ('posted', 'exists');
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused a decision''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;

    -- Who comes again after a lost COMMIT answer finds its own decision booked: same attempt, same word.
    RETURN QUERY
    SELECT g.n::integer, CASE
               WHEN every_one OR g.n = ANY (won) THEN 'applied'
               WHEN EXISTS (SELECT FROM operation AS o
                             WHERE o.operation_id = g.operation_id AND o.attempt = g.attempt AND o.status = g.status)
                   THEN 'applied'
               ELSE 'fenced' END
      FROM unnest(g_operation_id, g_attempt, g_status) WITH ORDINALITY AS g (operation_id, attempt, status, n);
END;
$$;

-- The orders' part of T2 where an operation is more than a usual charge. Several operations of a batch may be one
-- order's (refunds are), so what they add is added up per order first. `lacking`: how many orders could not go their
-- way: zero, or the commit is refused. `ended_attempts`: of the operations that were ended, by the places of their voids;
-- NULL where there are none.
CREATE OR REPLACE FUNCTION apply_to_orders(
    decided_at timestamptz, won integer[], g_operation_id uuid[], g_order_id uuid[], g_order_status text[],
    g_provider_reference text[], g_decline_code text[],
    x_starts boolean[], x_authorized_minor bigint[], x_captured_minor bigint[], x_reserved_minor bigint[],
    x_refunded_minor bigint[], x_commission_minor bigint[], x_seen_minor bigint[], x_refund_id uuid[],
    x_refund_status text[], x_ends uuid[], x_expires_at timestamptz[], x_is_late boolean[],
    OUT lacking integer, OUT ended_places integer[], OUT ended_attempts integer[]
)
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    wanted integer;
    moved integer;
BEGIN
    -- A void of what was still pending ends the charge or authorization itself: nobody else may book it any more.
    DELETE FROM lease AS l USING unnest(x_ends) WITH ORDINALITY AS g (ends, n)
     WHERE l.operation_id = g.ends AND g.n = ANY (won);
    WITH ended AS (
        UPDATE operation AS o
           SET status = 'DECLINED', decided_at = apply_to_orders.decided_at, decline_code = 'cancelled', cause = NULL
          FROM unnest(x_ends) WITH ORDINALITY AS g (ends, n)
         WHERE o.operation_id = g.ends AND g.n = ANY (won) AND o.status IN ('OPEN', 'PENDING', 'UNRESOLVED')
     RETURNING g.n, o.attempt
    )
    SELECT array_agg(e.n), array_agg(e.attempt) INTO ended_places, ended_attempts FROM ended AS e;

    WITH change AS (
        SELECT g.order_id, max(g.order_status) AS status, bool_or(g.starts) AS starts,
               max(g.provider_reference) FILTER (WHERE g.starts) AS provider_reference,
               max(g.decline_code) FILTER (WHERE g.order_status IN ('FAILED', 'CANCELLED')) AS decline_code,
               sum(g.authorized)::bigint AS authorized, sum(g.captured)::bigint AS captured,
               sum(g.reserved)::bigint AS reserved, sum(g.refunded)::bigint AS refunded,
               sum(g.commission)::bigint AS commission, max(g.seen) AS seen, max(g.expires_at) AS expires_at,
               array_agg(g.operation_id) AS operations
          FROM unnest(g_operation_id, g_order_id, g_order_status, g_provider_reference, g_decline_code, x_starts,
                      x_authorized_minor, x_captured_minor, x_reserved_minor, x_refunded_minor, x_commission_minor,
                      x_seen_minor, x_expires_at)
               WITH ORDINALITY
               AS g (operation_id, order_id, order_status, provider_reference, decline_code, starts, authorized,
                     captured, reserved, refunded, commission, seen, expires_at, n)
         WHERE g.n = ANY (won)
         GROUP BY g.order_id
    )
    UPDATE payment_order AS o
       SET status = coalesce(c.status, o.status),
           decided_at = CASE WHEN c.status IN ('SUCCESS', 'FAILED', 'CANCELLED') THEN apply_to_orders.decided_at
                             ELSE o.decided_at END,
           decline_code = CASE WHEN c.status IS NOT NULL THEN c.decline_code ELSE o.decline_code END,
           provider_reference = CASE WHEN c.starts THEN coalesce(c.provider_reference, o.provider_reference)
                                     ELSE o.provider_reference END,
           authorized_minor = o.authorized_minor + c.authorized, captured_minor = o.captured_minor + c.captured,
           refund_reserved_minor = o.refund_reserved_minor + c.reserved,
           refunded_minor = o.refunded_minor + c.refunded,
           refund_commission_minor = o.refund_commission_minor + c.commission,
           acting = CASE WHEN o.acting = ANY (c.operations) THEN NULL ELSE o.acting END,
           expires_at = coalesce(c.expires_at, o.expires_at)
      FROM change AS c
     WHERE o.order_id = c.order_id
       AND (c.status IS NULL OR c.status = o.status OR order_may_become(o.status, c.status))
       -- What was worked out from the rest of the reservation is booked alone: another decision of this batch may change it.
       AND (c.seen IS NULL OR c.seen = o.authorized_minor - o.captured_minor AND cardinality(c.operations) = 1
                              AND (o.acting IS NULL OR o.acting = ANY (c.operations)));
    GET DIAGNOSTICS moved = ROW_COUNT;
    wanted := (SELECT count(DISTINCT g.order_id) FROM unnest(g_order_id) WITH ORDINALITY AS g (order_id, n)
                WHERE g.n = ANY (won));

    UPDATE refund AS r
       SET status = g.status, decided_at = apply_to_orders.decided_at, decline_code = g.decline_code,
           provider_reference = coalesce(g.provider_reference, r.provider_reference)
      FROM unnest(x_refund_id, x_refund_status, g_decline_code, g_provider_reference)
           WITH ORDINALITY AS g (refund_id, status, decline_code, provider_reference, n)
     WHERE r.refund_id = g.refund_id AND g.n = ANY (won) AND g.status IS NOT NULL AND refund_may_become(r.status, g.status);

    -- Refused a capture or a void? Then the authorization may be gone already, whatever its life should be: ask at once.
    UPDATE authorization_watch AS w SET due_at = least(w.due_at, apply_to_orders.decided_at)
      FROM unnest(g_order_id, g_decline_code, x_starts, x_refund_id)
           WITH ORDINALITY AS g (order_id, decline_code, starts, refund_id, n)
     WHERE w.order_id = g.order_id AND g.n = ANY (won) AND g.decline_code IS NOT NULL AND NOT g.starts
       AND g.refund_id IS NULL;
    INSERT INTO authorization_watch AS w (order_id, operation_id, due_at)
    SELECT g.order_id, g.operation_id, g.expires_at
      FROM unnest(g_order_id, g_operation_id, g_order_status, x_expires_at)
           WITH ORDINALITY AS g (order_id, operation_id, order_status, expires_at, n)
     WHERE g.n = ANY (won) AND g.order_status = 'AUTHORIZED' AND g.expires_at IS NOT NULL
    ON CONFLICT (order_id) DO UPDATE SET due_at = excluded.due_at;
    DELETE FROM authorization_watch AS w
     USING unnest(g_order_id, g_order_status) WITH ORDINALITY AS g (order_id, order_status, n)
     WHERE w.order_id = g.order_id AND g.n = ANY (won) AND g.order_status IN ('SUCCESS', 'FAILED', 'CANCELLED');

    INSERT INTO late_success (order_id, at)
    SELECT g.order_id, apply_to_orders.decided_at
      FROM unnest(g_order_id, x_is_late) WITH ORDINALITY AS g (order_id, is_late, n)
     WHERE g.n = ANY (won) AND g.is_late
    ON CONFLICT DO NOTHING;
    DELETE FROM late_success AS l  -- its hold is released: there is nothing to give back any more
     USING unnest(g_order_id, g_order_status) WITH ORDINALITY AS g (order_id, order_status, n)
     WHERE l.order_id = g.order_id AND g.n = ANY (won) AND g.order_status IN ('FAILED', 'CANCELLED');
    PERFORM void_late(decided_at, ARRAY(
        SELECT DISTINCT g.order_id FROM unnest(g_order_id) WITH ORDINALITY AS g (order_id, n) WHERE g.n = ANY (won)));
    lacking := wanted - moved;
END;
$$;

REVOKE ALL ON FUNCTION apply_outcomes, apply_to_orders FROM PUBLIC;
GRANT EXECUTE ON FUNCTION apply_outcomes TO coatcheck_app;
