-- The PSP did not decide: the operation goes back to wait for its next step, or for a person. Fenced like a decision.
-- was_sent false: nothing has ever left for the PSP, so its idempotency window has not begun. Not so for a page: it has one
-- key for all orders of the payment, and another order's call may have begun its window. g_order_status NULL: the order's
-- status is not this operation's to say. g_redirect_url: the PSP's page, once it is there.
CREATE OR REPLACE FUNCTION reschedule_operations(
    at timestamptz,
    g_operation_id uuid[], g_attempt integer[], g_status text[], g_order_id uuid[], g_order_status text[],
    g_provider_reference text[], g_cause text[], g_due_at timestamptz[], g_was_sent boolean[],
    g_costs boolean[], g_redirect_url text[],
    g_payment_id uuid[], g_shop_id uuid[], g_mode text[], g_event_id uuid[], g_event_kind text[], g_event_body text[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    won integer[];
BEGIN
    WITH kept AS (
        UPDATE lease AS l
           SET holder = NULL, due_at = g.due_at,
               answered_at = CASE WHEN g.order_status = 'PENDING' THEN reschedule_operations.at END
          FROM unnest(g_operation_id, g_attempt, g_due_at, g_order_status)
               WITH ORDINALITY AS g (operation_id, attempt, due_at, order_status, n)
         WHERE l.operation_id = g.operation_id AND l.attempt = g.attempt AND l.holder IS NOT NULL
     RETURNING g.n
    )
    SELECT coalesce(array_agg(n), '{}') INTO won FROM kept;

    -- The event tells when the window began, as it is kept from now on: only the row knows what was marked meanwhile.
    WITH moved AS (
        UPDATE operation AS o
           SET status = g.status, cause = g.cause,
               first_sent_at = CASE WHEN g.was_sent OR o.is_hosted THEN o.first_sent_at END,
               provider_reference = coalesce(g.provider_reference, o.provider_reference),
               tries = o.tries + g.costs::integer
          FROM unnest(g_operation_id, g_status, g_cause, g_was_sent, g_provider_reference, g_costs, g_payment_id,
                      g_shop_id, g_mode, g_event_id, g_event_kind, g_event_body)
               WITH ORDINALITY
               AS g (operation_id, status, cause, was_sent, provider_reference, costs, payment_id, shop_id, mode,
                     event_id, event_kind, event_body, n)
         WHERE o.operation_id = g.operation_id AND g.n = ANY (won)
     RETURNING g.payment_id, g.event_id, g.event_kind, g.shop_id, g.mode, g.event_body, o.first_sent_at
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT m.payment_id, m.event_id, m.event_kind, m.shop_id, m.mode, reschedule_operations.at,
           with_field(m.event_body, 'first_sent_at', to_json(m.first_sent_at))::json
      FROM moved AS m;

    UPDATE payment_order AS o
       SET status = CASE WHEN order_may_become(o.status, g.status) THEN g.status ELSE o.status END,
           redirect_url = coalesce(g.redirect_url, o.redirect_url)
      FROM unnest(g_order_id, g_order_status, g_redirect_url) WITH ORDINALITY AS g (order_id, status, redirect_url, n)
     WHERE o.order_id = g.order_id AND g.n = ANY (won)
       AND (order_may_become(o.status, g.status) OR g.redirect_url IS NOT NULL);

    RETURN QUERY SELECT n, CASE WHEN n = ANY (won) THEN 'applied' ELSE 'fenced' END
                   FROM generate_series(1, cardinality(g_operation_id)) AS n;
END;
$$;

-- An event's body, a JSON object that is not empty, with one field more at its end; the rest stays as it was written.
CREATE OR REPLACE FUNCTION with_field(body text, name text, value json) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT left(body, -1) || ',' || to_json(name)::text || ':' || coalesce(value::text, 'null') || '}';
$$;

-- The PSP's own id of a two-step object, stored before money moves. Fenced: returns the positions that were kept.
CREATE OR REPLACE FUNCTION register_operations(
    at timestamptz, g_operation_id uuid[], g_attempt integer[], g_provider_reference text[],
    g_payment_id uuid[], g_shop_id uuid[], g_mode text[], g_event_id uuid[], g_event_body text[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    won integer[];
BEGIN
    -- The lease is locked first, so that nobody takes the operation over between the look and the write.
    WITH held AS (
        SELECT g.n
          FROM unnest(g_operation_id, g_attempt) WITH ORDINALITY AS g (operation_id, attempt, n)
          JOIN lease AS l ON l.operation_id = g.operation_id AND l.attempt = g.attempt
           FOR UPDATE OF l
    )
    SELECT coalesce(array_agg(n), '{}') INTO won FROM held;

    UPDATE operation AS o SET provider_reference = g.provider_reference
      FROM unnest(g_operation_id, g_provider_reference) WITH ORDINALITY AS g (operation_id, provider_reference, n)
     WHERE o.operation_id = g.operation_id AND g.n = ANY (won);

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.payment_id, g.event_id, 'operation.registered', g.shop_id, g.mode, register_operations.at, g.body::json
      FROM unnest(g_payment_id, g_event_id, g_shop_id, g_mode, g_event_body)
           WITH ORDINALITY AS g (payment_id, event_id, shop_id, mode, body, n)
     WHERE g.n = ANY (won);

    RETURN QUERY SELECT n, CASE WHEN n = ANY (won) THEN 'applied' ELSE 'fenced' END
                   FROM generate_series(1, cardinality(g_operation_id)) AS n;
END;
$$;

-- An id for an append-only row made in SQL: UUIDv7, as ids.py makes them.
CREATE OR REPLACE FUNCTION time_ordered_id(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid;
$$;

-- Take over work whose time has come: a retry that is due, or an operation whose holder's lease ran out. The attempt
-- number goes up, so whoever held it before can no longer book anything. SKIP LOCKED: claimers never wait. Each
-- provider's oldest work, `most` of it; less for the busy ones, so that a silent PSP's backlog does not come back as a
-- flood and keeps nobody else's waiting (hazard F7).
CREATE OR REPLACE FUNCTION claim_operations(
    at timestamptz, new_holder uuid, lease_until timestamptz, most integer, busy text[], room integer[]
)
RETURNS TABLE (operation_id uuid, attempt integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    -- What is done about money while the books are being made whole is the recovery's own doing.
    IF EXISTS (SELECT FROM recovery WHERE finished_at IS NULL) THEN RETURN; END IF;
    RETURN QUERY SELECT * FROM take_leases(at, new_holder, lease_until, ARRAY(
        SELECT oldest.operation_id
          FROM (SELECT DISTINCT d.provider FROM lease AS d WHERE d.due_at <= claim_operations.at) AS p
          LEFT JOIN unnest(busy, room) AS b (provider, room) ON b.provider = p.provider
         CROSS JOIN LATERAL (
             SELECT l.operation_id FROM lease AS l
              WHERE l.due_at <= claim_operations.at AND l.provider = p.provider
              ORDER BY l.due_at LIMIT coalesce(b.room, most)
                FOR UPDATE SKIP LOCKED
         ) AS oldest
    ), false);
END;
$$;

-- Take over these operations, for somebody who has news of them; what another process is working on is left to it.
CREATE OR REPLACE FUNCTION claim_named(at timestamptz, new_holder uuid, lease_until timestamptz, wanted uuid[])
RETURNS TABLE (operation_id uuid, attempt integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT * FROM take_leases(at, new_holder, lease_until, ARRAY(
        SELECT l.operation_id FROM lease AS l
         WHERE l.operation_id = ANY (wanted) AND (l.holder IS NULL OR l.due_at <= claim_named.at)
         ORDER BY l.operation_id FOR UPDATE SKIP LOCKED
    ), true);
END;
$$;

-- Somebody is back from a PSP's page: what waits for it there is due now, not when its time comes. Nothing but the time is
-- moved, and only of what nobody holds: whoever claims it next looks it up like any other. Only where the PSP answered the
-- last question, and that is `soonest` ago and a sixtieth of the operation's age: however often it is asked for, the PSP is
-- asked no oftener, and a page that is left open asks less and less. What waits because the PSP was silent, named a
-- Retry-After or found nothing (A14) goes on waiting. Returns how many it hurried.
CREATE OR REPLACE FUNCTION hurry_look_ups(at timestamptz, soonest interval, wanted uuid[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH waiting AS MATERIALIZED (
        SELECT l.operation_id
          FROM lease AS l JOIN operation AS o ON o.operation_id = l.operation_id
         WHERE l.operation_id = ANY (wanted) AND o.is_hosted AND o.status = 'PENDING' AND l.holder IS NULL
           AND l.due_at > hurry_look_ups.at
           AND l.answered_at <= hurry_look_ups.at - greatest(soonest, (hurry_look_ups.at - o.created_at) / 60)
           FOR UPDATE OF l SKIP LOCKED
    ), hurried AS (
        UPDATE lease AS l SET due_at = hurry_look_ups.at FROM waiting AS w WHERE l.operation_id = w.operation_id
     RETURNING 1
    )
    SELECT count(*)::integer FROM hurried;
$$;

-- What both claims do with the leases they have locked. A claim before its time forgets why the last attempt decided
-- nothing: a "not found" counts as the first of two only when the second is asked for no sooner than it said (A14).
CREATE OR REPLACE FUNCTION take_leases(
    at timestamptz, new_holder uuid, lease_until timestamptz, locked uuid[], forgets_cause boolean
)
RETURNS TABLE (operation_id uuid, attempt integer)
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH taken AS (
        UPDATE lease AS l SET attempt = l.attempt + 1, holder = new_holder, due_at = lease_until
         WHERE l.operation_id = ANY (locked)
     RETURNING l.operation_id, l.attempt
    ), claimed AS (
        UPDATE operation AS o
           SET attempt = taken.attempt, cause = CASE WHEN forgets_cause THEN NULL ELSE o.cause END
          FROM taken WHERE o.operation_id = taken.operation_id
     RETURNING o.*
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT c.payment_id, time_ordered_id(take_leases.at), 'operation.claimed', c.shop_id, c.mode, take_leases.at,
               json_build_object('operation_id', c.operation_id, 'order_id', c.order_id, 'attempt', c.attempt,
                                 'holder', new_holder, 'forgets_cause', forgets_cause,
                                 'first_sent_at', c.first_sent_at)
          FROM claimed AS c
    )
    SELECT c.operation_id, c.attempt FROM claimed AS c;
$$;

-- Ask again about operations that were decided, because the PSP says something else by now: they become PENDING, which
-- is asked about and never sent. Only what has no lease; the new attempt number fences whoever decided it.
CREATE OR REPLACE FUNCTION reopen_operations(
    at timestamptz, new_holder uuid, lease_until timestamptz, wanted uuid[], why text
) RETURNS TABLE (operation_id uuid, attempt integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH reopened AS (
        UPDATE operation AS o SET status = 'PENDING', attempt = o.attempt + 1, cause = why
         WHERE o.operation_id = ANY (wanted) AND operation_may_become(o.status, 'PENDING')
           AND o.status IN ('APPROVED', 'DECLINED')
     RETURNING o.*
    ), leased AS (
        INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
        SELECT r.operation_id, r.provider, r.attempt, new_holder, lease_until FROM reopened AS r
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT r.payment_id, time_ordered_id(reopen_operations.at), 'operation.reopened', r.shop_id, r.mode,
               reopen_operations.at,
               json_build_object('operation_id', r.operation_id, 'order_id', r.order_id, 'attempt', r.attempt,
                                 'kind', r.kind, 'why', why, 'first_sent_at', r.first_sent_at)
          FROM reopened AS r
    )
    SELECT r.operation_id, r.attempt FROM reopened AS r;
END;
$$;

-- Authorizations whose time to be asked about has come; the next time is set at once. One that a capture or void is under
-- way for is left alone: that one's answer tells as much. Asked before its end: again then.
-- Asked after it: again when it is twice as long ago, for the PSP's clock may be behind ours, at the least and the most.
CREATE OR REPLACE FUNCTION claim_authorizations(at timestamptz, soonest interval, latest interval, most integer)
RETURNS TABLE (operation_id uuid)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    UPDATE authorization_watch AS w
       SET due_at = CASE WHEN o.expires_at > at THEN o.expires_at
                         ELSE at + least(latest, greatest(soonest, at - o.expires_at)) END
      FROM payment_order AS o
     WHERE o.order_id = w.order_id AND w.order_id = ANY (ARRAY(
               SELECT d.order_id FROM authorization_watch AS d JOIN payment_order AS p ON p.order_id = d.order_id
                WHERE d.due_at <= claim_authorizations.at AND p.acting IS NULL
                ORDER BY d.due_at LIMIT most FOR UPDATE OF d SKIP LOCKED))
 RETURNING w.operation_id;
$$;

-- A claimed operation is about to be sent: its idempotency window begins if nothing had left before, and what earlier
-- look-ups found says nothing about this sending. Committed before the call, so a death in it cannot undo that. Fenced.
-- found: what the look-up said that allows it; NULL where it needed none.
CREATE OR REPLACE FUNCTION mark_sending(at timestamptz, which uuid, held_attempt integer, found json) RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH held AS (
        SELECT l.operation_id FROM lease AS l WHERE l.operation_id = which AND l.attempt = held_attempt FOR UPDATE
    ), marked AS (
        UPDATE operation AS o SET first_sent_at = coalesce(o.first_sent_at, at), cause = NULL
          FROM held WHERE o.operation_id = held.operation_id
     RETURNING o.*
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT m.payment_id, time_ordered_id(mark_sending.at), 'operation.sending', m.shop_id, m.mode, mark_sending.at,
               json_build_object('operation_id', m.operation_id, 'order_id', m.order_id, 'attempt', held_attempt,
                                 'first_sent_at', m.first_sent_at, 'found', found)
          FROM marked AS m
    )
    SELECT EXISTS (SELECT FROM marked);
$$;

-- The advisory lock that a living process holds in a session of its own. PostgreSQL lets go of it when the process dies.
CREATE OR REPLACE FUNCTION presence_key(holder uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT hashtextextended('coatcheck presence ' || holder::text, 0);
$$;

-- Who else holds leases that still run and is not there any more. The shared lock says so without keeping anybody out;
-- who looks would always get its own.
CREATE OR REPLACE FUNCTION absent_holders(at timestamptz, looker uuid) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT h.holder
      FROM (SELECT DISTINCT l.holder FROM lease AS l WHERE l.holder <> looker AND l.due_at > absent_holders.at) AS h
     WHERE pg_try_advisory_xact_lock_shared(presence_key(h.holder));
$$;

-- End the leases of processes that are gone, for those providers: the work is due at once. Only for holders that are
-- still not there: one that came back keeps its leases, and waits for its lock until this is committed.
CREATE OR REPLACE FUNCTION end_leases_of(at timestamptz, gone uuid[], providers text[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH absent AS MATERIALIZED (
        SELECT g.holder FROM unnest(gone) AS g (holder)
         WHERE pg_try_advisory_xact_lock_shared(presence_key(g.holder))
    ), running AS MATERIALIZED (
        SELECT l.operation_id FROM lease AS l JOIN absent AS a ON a.holder = l.holder
         WHERE l.due_at > end_leases_of.at AND l.provider = ANY (providers)
           FOR UPDATE OF l SKIP LOCKED
    ), ended AS (
        UPDATE lease AS l SET due_at = end_leases_of.at FROM running AS r WHERE l.operation_id = r.operation_id
     RETURNING 1
    )
    SELECT count(*)::integer FROM ended;
$$;

-- A gateway that stops gives its work back at once instead of letting the leases run out.
CREATE OR REPLACE FUNCTION release_operations(at timestamptz, old_holder uuid) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH released AS (
        UPDATE lease SET holder = NULL, due_at = release_operations.at WHERE holder = old_holder RETURNING 1
    )
    SELECT count(*)::integer FROM released;
$$;

REVOKE ALL ON FUNCTION reschedule_operations, with_field, register_operations, claim_operations, claim_named,
    hurry_look_ups, take_leases, reopen_operations, claim_authorizations, mark_sending, presence_key, absent_holders,
    end_leases_of, release_operations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reschedule_operations, register_operations, claim_operations, claim_named,
    hurry_look_ups, reopen_operations, claim_authorizations, mark_sending, presence_key, absent_holders,
    end_leases_of, release_operations TO coatcheck_app;
