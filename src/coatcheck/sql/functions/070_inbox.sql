-- Store events, each once; what is stored already is left as it is. Returns the positions that were new.
CREATE OR REPLACE FUNCTION store_events(
    at timestamptz, due timestamptz, inbox_ids uuid[], providers text[], modes text[], accounts text[],
    event_ids text[], headers text[], raws bytea[]
) RETURNS TABLE (place integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    RETURN QUERY
    WITH stored AS (
        INSERT INTO inbox AS i (inbox_id, provider, mode, account, event_id, headers, raw, received_at)
        SELECT DISTINCT ON (g.inbox_id) g.inbox_id, g.provider, g.mode, g.account, g.event_id, g.headers::json, g.raw, at
          FROM unnest(inbox_ids, providers, modes, accounts, event_ids, headers, raws)
               AS g (inbox_id, provider, mode, account, event_id, headers, raw)
         ORDER BY g.inbox_id
        ON CONFLICT DO NOTHING
        RETURNING i.inbox_id
    ), due_now AS (
        INSERT INTO inbox_lease (inbox_id, attempt, due_at) SELECT s.inbox_id, 0, due FROM stored AS s
    )
    SELECT min(g.n)::integer FROM unnest(inbox_ids) WITH ORDINALITY AS g (inbox_id, n) JOIN stored AS s USING (inbox_id)
     GROUP BY g.inbox_id;
END;
$$;

-- Take events whose time has come, for a while; another process may take them after it. SKIP LOCKED: nobody waits.
CREATE OR REPLACE FUNCTION claim_events(at timestamptz, lease_until timestamptz, most integer)
RETURNS TABLE (inbox_id uuid, attempt integer, tries integer, provider text, mode text, raw bytea)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH taken AS (
        UPDATE inbox_lease AS l SET attempt = l.attempt + 1, due_at = lease_until
         WHERE l.inbox_id = ANY (ARRAY(
                   SELECT d.inbox_id FROM inbox_lease AS d WHERE d.due_at <= claim_events.at
                    ORDER BY d.due_at LIMIT most FOR UPDATE SKIP LOCKED))
     RETURNING l.inbox_id, l.attempt, l.tries
    )
    SELECT t.inbox_id, t.attempt, t.tries, i.provider, i.mode, i.raw FROM taken AS t JOIN inbox AS i ON i.inbox_id = t.inbox_id;
$$;

-- What became of claimed events: handled (an outcome), or put back (a time; none: a dead letter) with the cause, and whether
-- that used up a try. Fenced by the attempt: who comes late changes nothing.
CREATE OR REPLACE FUNCTION settle_events(
    at timestamptz, inbox_ids uuid[], attempts integer[], outcomes text[], dues timestamptz[], causes text[],
    costs boolean[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    WITH handled AS (
        DELETE FROM inbox_lease AS l USING unnest(inbox_ids, attempts, outcomes) AS g (inbox_id, attempt, outcome)
         WHERE l.inbox_id = g.inbox_id AND l.attempt = g.attempt AND g.outcome IS NOT NULL
     RETURNING g.inbox_id, g.outcome
    )
    UPDATE inbox AS i SET outcome = h.outcome, handled_at = settle_events.at
      FROM handled AS h WHERE i.inbox_id = h.inbox_id;
    UPDATE inbox_lease AS l SET due_at = g.due, cause = g.cause, tries = l.tries + g.costs::integer
      FROM unnest(inbox_ids, attempts, outcomes, dues, causes, costs) AS g (inbox_id, attempt, outcome, due, cause, costs)
     WHERE l.inbox_id = g.inbox_id AND l.attempt = g.attempt AND g.outcome IS NULL;
END;
$$;

-- A person has events tried again that wait for one: they are due now. Returns those that were waiting; what is due, being
-- handled or handled is left alone. The attempt number is a fence and never goes back, so a retry is one more try.
-- Locks: their leases, in id order.
CREATE OR REPLACE FUNCTION retry_events(at timestamptz, wanted uuid[], who text) RETURNS TABLE (inbox_id uuid)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH due AS (
        UPDATE inbox_lease AS l SET due_at = retry_events.at
         WHERE l.inbox_id = ANY (ARRAY(
                   SELECT d.inbox_id FROM inbox_lease AS d WHERE d.inbox_id = ANY (wanted) AND d.due_at IS NULL
                    ORDER BY d.inbox_id FOR UPDATE))
     RETURNING l.inbox_id, l.attempt, l.cause
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT i.inbox_id, time_ordered_id(retry_events.at), 'webhook.retried', n.nil, i.mode, retry_events.at,
               json_build_object('inbox_id', i.inbox_id, 'provider', i.provider, 'account', i.account,
                                 'event_id', i.event_id, 'attempt', d.attempt, 'cause', d.cause, 'by', who)
          FROM due AS d JOIN inbox AS i ON i.inbox_id = d.inbox_id,
               (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil)
    )
    SELECT d.inbox_id FROM due AS d;
$$;

-- A person closes an event that nobody could handle; its row stays as it came. 'dismissed'; 'exists' (it was dismissed
-- before: the first reason stays); 'waiting' (it is due, or being handled); 'settled' (it was handled); NULL where there is
-- none. Locks: its lease.
CREATE OR REPLACE FUNCTION dismiss_event(at timestamptz, wanted uuid, why text, who text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    WITH gone AS (
        DELETE FROM inbox_lease AS l WHERE l.inbox_id = wanted AND l.due_at IS NULL
     RETURNING l.inbox_id, l.attempt, l.cause
    ), marked AS (
        UPDATE inbox AS i SET outcome = 'dismissed', handled_at = dismiss_event.at
          FROM gone AS g WHERE i.inbox_id = g.inbox_id
     RETURNING i.inbox_id, i.provider, i.mode, i.account, i.event_id, g.attempt, g.cause
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT m.inbox_id, time_ordered_id(dismiss_event.at), 'webhook.dismissed', n.nil, m.mode, dismiss_event.at,
           json_build_object('inbox_id', m.inbox_id, 'provider', m.provider, 'account', m.account,
                             'event_id', m.event_id, 'attempt', m.attempt, 'cause', m.cause, 'reason', why, 'by', who)
      FROM marked AS m, (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil);
    IF FOUND THEN
        RETURN 'dismissed';
    END IF;
    -- A statement of its own: it sees what another person has committed while this one waited.
    RETURN (SELECT CASE WHEN i.outcome IS NULL THEN 'waiting' WHEN i.outcome = 'dismissed' THEN 'exists' ELSE 'settled' END
              FROM inbox AS i WHERE i.inbox_id = wanted);
END;
$$;

REVOKE ALL ON FUNCTION store_events, claim_events, settle_events, retry_events, dismiss_event FROM PUBLIC;
GRANT EXECUTE ON FUNCTION store_events, claim_events, settle_events, retry_events, dismiss_event TO coatcheck_app;
