-- What a shop asks for after the charge: capture, cancel, refund. Each is an intent like a charge: committed with its
-- lease before anybody calls the PSP. The order's one row decides every race: it is locked, then judged, then changed.

-- Make the operations that act on orders' charges, leased to holder (NULL: due at once, for whoever comes first). A
-- capture or void becomes its order's one act under way.
CREATE OR REPLACE FUNCTION insert_follow_ups(
    at timestamptz, lease_holder uuid, lease_until timestamptz, operation_ids uuid[], kind text, order_ids uuid[],
    amounts_minor bigint[], is_final boolean, refund_ids uuid[], targets text[]
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency,
                           body, target_reference, refund_id, is_final, status, attempt, first_sent_at, created_at)
    SELECT g.operation_id, o.order_id, o.payment_id, o.shop_id, o.mode, insert_follow_ups.kind, o.provider,
           g.amount_minor, o.currency, '', g.target, g.refund_id, insert_follow_ups.is_final, 'OPEN', 1,
           CASE WHEN lease_holder IS NOT NULL THEN at END, at
      FROM unnest(operation_ids, order_ids, amounts_minor, refund_ids, targets)
           AS g (operation_id, order_id, amount_minor, refund_id, target)
      JOIN payment_order AS o ON o.order_id = g.order_id;
    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    SELECT g.operation_id, o.provider, 1, lease_holder, coalesce(lease_until, at)
      FROM unnest(operation_ids, order_ids) AS g (operation_id, order_id)
      JOIN payment_order AS o ON o.order_id = g.order_id;
    IF insert_follow_ups.kind IN ('capture', 'void') THEN
        UPDATE payment_order AS o SET acting = g.operation_id
          FROM unnest(operation_ids, order_ids) AS g (operation_id, order_id)
         WHERE o.order_id = g.order_id AND o.acting IS NULL;
    END IF;
END;
$$;

-- What an event says of the operations that were made with it: all that their rows began with.
CREATE OR REPLACE FUNCTION made_of(operation_ids uuid[]) RETURNS json
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(json_agg(json_build_object(
               'operation_id', o.operation_id, 'order_id', o.order_id, 'kind', o.kind, 'amount_minor', o.amount_minor,
               'is_final', o.is_final, 'target_reference', o.target_reference, 'first_sent_at', o.first_sent_at)), '[]')
      FROM operation AS o WHERE o.operation_id = ANY (operation_ids);
$$;

-- Make the captures or voids that were judged 'requested', with their event: all of a request, or none when any of its
-- orders was refused; returns the outcomes, in which 'held_back' then stands for those that were not at fault.
CREATE OR REPLACE FUNCTION commit_acts(
    at timestamptz, lease_holder uuid, lease_until timestamptz, kind text, is_final boolean, operation_ids uuid[],
    order_ids uuid[], amounts_minor bigint[], targets text[], outcomes text[], payment uuid, event_id uuid,
    event_kind text, event_body text
) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF NOT outcomes <@ ARRAY['requested', 'exists', 'done'] THEN
        RETURN array_replace(outcomes, 'requested', 'held_back');
    END IF;
    IF 'requested' = ANY (outcomes) THEN
        PERFORM insert_follow_ups(at, lease_holder, lease_until, array_agg(g.operation_id), commit_acts.kind,
                                  array_agg(g.order_id), array_agg(g.amount_minor), commit_acts.is_final,
                                  array_agg(NULL::uuid), array_agg(g.target))
           FROM unnest(operation_ids, order_ids, amounts_minor, targets, outcomes)
                AS g (operation_id, order_id, amount_minor, target, outcome)
          WHERE g.outcome = 'requested';
        PERFORM tell_of_request(at, payment, event_id, event_kind, with_field(event_body, 'operations', made_of(ARRAY(
            SELECT g.operation_id FROM unnest(operation_ids, outcomes) AS g (operation_id, outcome)
             WHERE g.outcome = 'requested'))));
    END IF;
    RETURN outcomes;
END;
$$;

-- Capture authorized orders of one payment: all that were asked for, or none. One row per order with its operation and
-- 'requested', 'exists' (the same request again), 'done' (the same, adopted after a restore, and the order is over), or why
-- none was: 'key_reused', 'unknown', 'not_authorized', 'busy', 'too_much'; 'held_back' where it was this one's neighbour.
-- An amount NULL: all that is left.
-- Idempotent on the ticket, which is the request's key. Locks: the orders, in id order.
CREATE OR REPLACE FUNCTION request_captures(
    at timestamptz, lease_holder uuid, lease_until timestamptz, wanted_payment uuid, order_ids uuid[],
    amounts_minor bigint[], final boolean, ticket text, event_id uuid, event_body text
) RETURNS TABLE (order_id uuid, operation_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    operation_ids uuid[] := ARRAY(SELECT operation_id_of(n, 'capture', ticket)
                                    FROM unnest(order_ids) WITH ORDINALITY AS g (n, place) ORDER BY place);
    outcomes text[];
    targets text[];
    all_ids CONSTANT uuid[] := order_ids || (SELECT p.order_ids FROM payment AS p WHERE p.payment_id = wanted_payment);
    taken_ids uuid[];  -- what this ticket took before; the same request names the same orders
    is_other boolean;
    is_adopted boolean := false;
BEGIN
    PERFORM refuse_while_recovering();
    PERFORM 1 FROM payment_order AS o WHERE o.order_id = ANY (all_ids) ORDER BY o.order_id FOR UPDATE;
    taken_ids := ARRAY(SELECT c.order_id FROM operation AS c
                        WHERE c.operation_id IN (SELECT operation_id_of(n, 'capture', ticket) FROM unnest(all_ids) AS n));
    is_other := taken_ids <> '{}' AND NOT (taken_ids @> order_ids AND order_ids @> taken_ids);
    -- Of a capture that was adopted the PSP knows those orders only whose money it took; with the others it may be over.
    IF is_other AND order_ids @> taken_ids THEN
        is_adopted := EXISTS (
            SELECT FROM event AS e
             WHERE e.subject_id = wanted_payment AND e.kind = 'operation.adopted'
               AND (e.body ->> 'operation_id')::uuid = ANY (operation_ids));
    END IF;
    SELECT array_agg(CASE
               WHEN (o.payment_id = wanted_payment) IS NOT TRUE THEN 'unknown'
               WHEN is_other AND NOT is_adopted THEN 'key_reused'
               WHEN c.operation_id IS NOT NULL
               THEN CASE WHEN c.is_final = final AND c.amount_minor = coalesce(g.amount_minor, c.amount_minor)
                         THEN 'exists' ELSE 'key_reused' END
               WHEN is_adopted AND o.status IN ('SUCCESS', 'FAILED', 'CANCELLED') THEN 'done'
               WHEN o.status <> 'AUTHORIZED' THEN 'not_authorized'
               WHEN o.acting IS NOT NULL THEN 'busy'
               WHEN o.authorized_minor = o.captured_minor
                    OR g.amount_minor > o.authorized_minor - o.captured_minor THEN 'too_much'
               ELSE 'requested' END ORDER BY g.n),
           array_agg(coalesce(g.amount_minor, o.authorized_minor - o.captured_minor) ORDER BY g.n),
           array_agg(o.provider_reference ORDER BY g.n)
      INTO outcomes, amounts_minor, targets
      FROM unnest(order_ids, operation_ids, amounts_minor) WITH ORDINALITY AS g (order_id, operation_id, amount_minor, n)
      LEFT JOIN payment_order AS o ON o.order_id = g.order_id
      LEFT JOIN operation AS c ON c.operation_id = g.operation_id;
    outcomes := commit_acts(at, lease_holder, lease_until, 'capture', final, operation_ids, order_ids, amounts_minor,
                            targets, outcomes, wanted_payment, event_id, 'capture.requested', event_body);
    RETURN QUERY SELECT * FROM unnest(order_ids, operation_ids, outcomes);
END;
$$;

-- Void what was authorized and not captured, and what is pending at the PSP, of a payment. One row per order with its
-- operation and 'requested', 'exists', or 'charged' (nothing of the payment is touched then), 'busy', 'executing',
-- 'done' (it has failed or is cancelled already), 'held_back'. Idempotent on the ticket. Locks: the orders, in id order.
CREATE OR REPLACE FUNCTION request_cancel(
    at timestamptz, lease_holder uuid, lease_until timestamptz, order_ids uuid[], ticket text, event_id uuid,
    event_body text
) RETURNS TABLE (order_id uuid, operation_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    operation_ids uuid[] := ARRAY(SELECT operation_id_of(n, 'void', ticket)
                                    FROM unnest(order_ids) WITH ORDINALITY AS g (n, place) ORDER BY place);
    payment uuid;
    outcomes text[];
    amounts bigint[];
    targets text[];
BEGIN
    PERFORM refuse_while_recovering();
    PERFORM 1 FROM payment_order AS o WHERE o.order_id = ANY (order_ids) ORDER BY o.order_id FOR UPDATE;
    SELECT array_agg(CASE
               WHEN v.operation_id IS NOT NULL THEN 'exists'
               WHEN o.status IN ('FAILED', 'CANCELLED') THEN 'done'
               WHEN o.status = 'SUCCESS' THEN 'charged'
               WHEN o.acting IS NOT NULL THEN 'busy'
               WHEN o.status = 'AUTHORIZED' THEN 'requested'
               WHEN o.status = 'PENDING' AND first.provider_reference IS NOT NULL THEN 'requested'
               ELSE 'executing' END ORDER BY g.n),
           array_agg(CASE o.status WHEN 'AUTHORIZED' THEN o.authorized_minor - o.captured_minor ELSE o.amount_minor END
                     ORDER BY g.n),
           array_agg(coalesce(o.provider_reference, first.provider_reference) ORDER BY g.n), min(o.payment_id::text)::uuid
      INTO outcomes, amounts, targets, payment
      FROM unnest(order_ids, operation_ids) WITH ORDINALITY AS g (order_id, operation_id, n)
      JOIN payment_order AS o ON o.order_id = g.order_id
      LEFT JOIN operation AS v ON v.operation_id = g.operation_id
      LEFT JOIN LATERAL (
           SELECT c.provider_reference FROM operation AS c
            WHERE c.operation_id IN (operation_id_of(o.order_id, 'charge', '1'), operation_id_of(o.order_id, 'authorize', '1'))
            LIMIT 1) AS first ON true;
    outcomes := commit_acts(at, lease_holder, lease_until, 'void', true, operation_ids, order_ids, amounts, targets,
                            outcomes, payment, event_id, 'cancel.requested', event_body);
    RETURN QUERY SELECT * FROM unnest(order_ids, operation_ids, outcomes);
END;
$$;

-- Reserve a refund and make its operation, in one commit: 'requested', 'exists' (the same key and content),
-- 'key_reused', 'unknown', 'not_captured', 'disputed', 'too_much'. An amount NULL: all that is left. The commission's
-- share: returns_commission gives back the same part of it, exactly all of it with the last refund.
-- Idempotent on the refund's id, for ever. Locks: the order.
CREATE OR REPLACE FUNCTION request_refund(
    at timestamptz, lease_holder uuid, lease_until timestamptz, new_refund_id uuid, wanted_order uuid,
    wanted_minor bigint, returns_commission boolean, request_key text, digest bytea, why text, new_operation_id uuid,
    event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    o payment_order;
    known refund;
    left_minor bigint;
    earned_minor bigint;
    share_minor bigint := 0;
BEGIN
    IF lease_holder IS NOT NULL THEN PERFORM refuse_while_recovering(); END IF;
    SELECT * INTO o FROM payment_order AS p WHERE p.order_id = wanted_order FOR UPDATE;
    SELECT * INTO known FROM refund AS r WHERE r.refund_id = new_refund_id;
    IF known.request_digest = '' AND known.order_id = wanted_order
       AND coalesce(wanted_minor, known.amount_minor) = known.amount_minor THEN  -- adopted: the shop says now what it was
        UPDATE refund AS r SET key = request_key, request_digest = digest, reason = coalesce(why, r.reason)
         WHERE r.refund_id = new_refund_id;
        PERFORM tell_of_request(at, known.payment_id, event_id, 'refund.recognised', json_build_object(
            'refund_id', new_refund_id, 'order_id', known.order_id, 'key', request_key,
            'request_digest', encode(digest, 'hex'), 'reason', coalesce(why, known.reason))::text);
        RETURN 'exists';
    END IF;
    IF known.refund_id IS NOT NULL THEN
        RETURN CASE WHEN known.request_digest = digest AND known.order_id = wanted_order THEN 'exists' ELSE 'key_reused' END;
    END IF;
    left_minor := o.captured_minor - o.refund_reserved_minor;
    wanted_minor := coalesce(wanted_minor, left_minor);
    IF o.order_id IS NULL THEN RETURN 'unknown'; END IF;
    IF o.captured_minor = 0 THEN RETURN 'not_captured'; END IF;
    IF o.is_disputed THEN RETURN 'disputed'; END IF;
    IF wanted_minor > left_minor OR left_minor = 0 THEN RETURN 'too_much'; END IF;

    IF returns_commission THEN
        earned_minor := commission_of(o.commission_minor, o.amount_minor, o.captured_minor);
        -- Rounded down, but no more of the commission may be left than of the amount: the rest of it could not go back.
        share_minor := least(wanted_minor, earned_minor - o.refund_commission_minor, greatest(
            commission_of(earned_minor, o.captured_minor, wanted_minor),
            earned_minor - o.refund_commission_minor - (left_minor - wanted_minor)));
    END IF;
    UPDATE payment_order AS p
       SET refund_reserved_minor = p.refund_reserved_minor + wanted_minor,
           refund_commission_minor = p.refund_commission_minor + share_minor
     WHERE p.order_id = wanted_order;
    INSERT INTO refund (refund_id, order_id, payment_id, shop_id, mode, key, request_digest, amount_minor,
                        commission_minor, currency, reason, status, created_at)
    VALUES (new_refund_id, o.order_id, o.payment_id, o.shop_id, o.mode, request_key, digest, wanted_minor, share_minor,
            o.currency, why, 'PENDING', at);
    PERFORM insert_follow_ups(at, lease_holder, lease_until, ARRAY[new_operation_id], 'refund', ARRAY[wanted_order],
                              ARRAY[wanted_minor], true, ARRAY[new_refund_id], ARRAY[o.provider_reference]);
    DELETE FROM late_success AS l WHERE l.order_id = wanted_order AND wanted_minor = left_minor;
    PERFORM tell_of_request(at, o.payment_id, event_id, 'refund.requested', json_build_object(
        'refund_id', new_refund_id, 'order_id', o.order_id, 'operation_id', new_operation_id, 'key', request_key,
        'request_digest', encode(digest, 'hex'), 'amount_minor', wanted_minor, 'commission_minor', share_minor,
        'currency', o.currency, 'reason', why, 'target_reference', o.provider_reference,
        'first_sent_at', CASE WHEN lease_holder IS NOT NULL THEN at END)::text);
    RETURN 'requested';
END;
$$;

-- The part of a commission that belongs to a part of its amount, rounded down; the whole's is exactly the whole.
CREATE OR REPLACE FUNCTION commission_of(commission_minor bigint, whole_minor bigint, part_minor bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT div(commission_minor::numeric * part_minor, whole_minor)::bigint;
$$;

CREATE OR REPLACE FUNCTION tell_of_request(at timestamptz, payment uuid, event_id uuid, kind text, body text)
RETURNS void LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT p.payment_id, tell_of_request.event_id, tell_of_request.kind, p.shop_id, p.mode, tell_of_request.at,
           tell_of_request.body::json
      FROM payment AS p WHERE p.payment_id = tell_of_request.payment;
$$;

-- All or nothing: what comes next for checkouts one of whose orders has just moved. The payment's row is locked first,
-- so that of two orders decided at the same time the second sees the first. All authorized: capture all. One failed:
-- void the others. A capture refused after others were captured: void what is left, give back what was taken.
-- The operations' tickets are fixed, so none is made twice.
CREATE OR REPLACE FUNCTION settle_checkouts(at timestamptz, payment_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    moved record;
    newly_decided uuid[];
    made_ids uuid[] := '{}';
BEGIN
    PERFORM 1 FROM payment AS p WHERE p.payment_id = ANY (payment_ids) ORDER BY p.payment_id FOR UPDATE;
    WITH standing AS (
        SELECT o.payment_id, bool_and(o.status = 'AUTHORIZED') AS all_authorized,
               bool_or(o.status IN ('FAILED', 'CANCELLED') OR c.status = 'DECLINED') AS one_failed
          FROM payment_order AS o
          LEFT JOIN operation AS c ON c.operation_id = operation_id_of(o.order_id, 'capture', 'all-or-nothing')
         WHERE o.order_id = ANY (ARRAY(SELECT unnest(p.order_ids) FROM payment AS p WHERE p.payment_id = ANY (payment_ids)))
         GROUP BY o.payment_id
    ), decided AS (
        INSERT INTO checkout_decision AS d (payment_id, decision, decided_at)
        SELECT s.payment_id, CASE WHEN s.one_failed THEN 'void' ELSE 'capture' END, at
          FROM standing AS s WHERE s.one_failed OR s.all_authorized
        ON CONFLICT (payment_id) DO UPDATE SET decision = 'undo', decided_at = excluded.decided_at
         WHERE d.decision = 'capture' AND excluded.decision = 'void'
     RETURNING d.payment_id
    )
    SELECT coalesce(array_agg(payment_id), '{}') INTO newly_decided FROM decided;

    FOR moved IN  -- one statement per kind of next step, not per row
        SELECT k.kind, array_agg(o.order_id) AS order_ids, array_agg(o.authorized_minor) AS amounts,
               array_agg(o.provider_reference) AS targets,
               array_agg(operation_id_of(o.order_id, k.kind, 'all-or-nothing')) AS operation_ids
          FROM checkout_decision AS d
         CROSS JOIN LATERAL (SELECT CASE d.decision WHEN 'capture' THEN 'capture' ELSE 'void' END AS kind) AS k
          JOIN payment AS p ON p.payment_id = d.payment_id
          JOIN payment_order AS o ON o.order_id = ANY (p.order_ids)
         WHERE d.payment_id = ANY (payment_ids) AND o.status = 'AUTHORIZED' AND o.acting IS NULL
           AND NOT EXISTS (
               SELECT FROM operation AS c WHERE c.operation_id = operation_id_of(o.order_id, k.kind, 'all-or-nothing'))
         GROUP BY 1
    LOOP
        PERFORM insert_follow_ups(
            at, NULL, NULL, moved.operation_ids, moved.kind, moved.order_ids, moved.amounts, true,
            array_fill(NULL::uuid, ARRAY[cardinality(moved.order_ids)]), moved.targets
        );
        made_ids := made_ids || moved.operation_ids;
    END LOOP;

    -- Told once it is decided, and again for an order that the decision reached later; with what was made of it.
    IF newly_decided <> '{}' OR made_ids <> '{}' THEN
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT p.payment_id, time_ordered_id(settle_checkouts.at), 'checkout.decided', p.shop_id, p.mode,
               settle_checkouts.at,
               json_build_object('payment_id', p.payment_id, 'decision', d.decision, 'decided_at', d.decided_at,
                                 'operations', made_of(m.operation_ids))
          FROM checkout_decision AS d
          JOIN payment AS p USING (payment_id)
         CROSS JOIN LATERAL (SELECT array_agg(c.operation_id) AS operation_ids FROM operation AS c
                              WHERE c.operation_id = ANY (made_ids) AND c.payment_id = d.payment_id) AS m
         WHERE d.payment_id = ANY (payment_ids)
           AND (d.payment_id = ANY (newly_decided) OR m.operation_ids IS NOT NULL);
    END IF;

    PERFORM request_refund(
        at, NULL, NULL, refund_id_of(o.shop_id, o.mode, 'all-or-nothing ' || o.order_id), o.order_id, NULL, true,
        'all-or-nothing ' || o.order_id, sha256(convert_to('all-or-nothing ' || o.order_id, 'UTF8')),
        'another order of this all-or-nothing checkout failed',
        operation_id_of(o.order_id, 'refund', 'all-or-nothing'), time_ordered_id(at)
    )
      FROM checkout_decision AS d
      JOIN payment AS p ON p.payment_id = d.payment_id
      JOIN payment_order AS o ON o.order_id = ANY (p.order_ids)
     WHERE d.payment_id = ANY (payment_ids) AND d.decision = 'undo' AND o.status = 'SUCCESS' AND o.captured_minor > o.refund_reserved_minor;
END;
$$;

-- Give back what the PSP authorized after its order had been given up, where policy says so: one void each, under a ticket
-- of the order's own, so that none is made twice. It is called by every decision of an order: one for which another void was
-- under way has its turn in the commit that decides that. The orders' rows are locked by the caller.
CREATE OR REPLACE FUNCTION void_late(at timestamptz, wanted uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    late record;
BEGIN
    SELECT array_agg(o.order_id) AS order_ids, array_agg(v.void_id) AS void_ids,
           array_agg(o.authorized_minor - o.captured_minor) AS amounts, array_agg(o.provider_reference) AS targets
      INTO late
      FROM late_success AS l
      JOIN payment_order AS o ON o.order_id = l.order_id
     CROSS JOIN LATERAL (SELECT operation_id_of(o.order_id, 'void', 'late-success ' || o.order_id) AS void_id) AS v
     WHERE l.order_id = ANY (wanted) AND o.status = 'AUTHORIZED' AND o.acting IS NULL
       AND NOT EXISTS (SELECT FROM operation AS c WHERE c.operation_id = v.void_id);
    IF late.order_ids IS NULL THEN RETURN; END IF;

    PERFORM insert_follow_ups(at, NULL, NULL, late.void_ids, 'void', late.order_ids, late.amounts, true,
                              array_fill(NULL::uuid, ARRAY[cardinality(late.order_ids)]), late.targets);
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT o.payment_id, time_ordered_id(void_late.at), 'cancel.requested', o.shop_id, o.mode, void_late.at,
           json_build_object('payment_id', o.payment_id, 'key', 'late-success ' || o.order_id,
                             'reason', 'the authorization succeeded after the order had been given up',
                             'operations', made_of(ARRAY[g.void_id]))
      FROM unnest(late.order_ids, late.void_ids) AS g (order_id, void_id)
      JOIN payment_order AS o ON o.order_id = g.order_id;
END;
$$;

-- The id of a refund, as ids.py makes it.
CREATE OR REPLACE FUNCTION refund_id_of(shop_id uuid, mode text, key text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(substr(sha256(convert_to(
        '2:rf32:' || replace(shop_id::text, '-', '') || length(mode) || ':' || mode || length(key) || ':' || key,
        'UTF8')), 1, 16), 'hex')::uuid;
$$;

REVOKE ALL ON FUNCTION insert_follow_ups, made_of, commit_acts, request_captures, request_cancel, request_refund,
    tell_of_request, settle_checkouts, void_late FROM PUBLIC;
GRANT EXECUTE ON FUNCTION request_captures, request_cancel, request_refund TO coatcheck_app;
