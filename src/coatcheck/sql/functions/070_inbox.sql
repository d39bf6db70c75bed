-- Store events, each once; what is stored already is left as it is. Returns the positions that were new.
CREATE OR REPLACE FUNCTION store_events(
    at timestamptz, due timestamptz, inbox_ids uuid[], providers text[], modes text[], accounts text[],
    event_ids text[], headers text[], raws bytea[]
) RETURNS TABLE (place integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
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
RETURNS TABLE (inbox_id uuid, attempt integer, provider text, mode text, raw bytea)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH taken AS (
        UPDATE inbox_lease AS l SET attempt = l.attempt + 1, due_at = lease_until
         WHERE l.inbox_id = ANY (ARRAY(
                   SELECT d.inbox_id FROM inbox_lease AS d WHERE d.due_at <= claim_events.at
                    ORDER BY d.due_at LIMIT most FOR UPDATE SKIP LOCKED))
     RETURNING l.inbox_id, l.attempt
    )
    SELECT t.inbox_id, t.attempt, i.provider, i.mode, i.raw FROM taken AS t JOIN inbox AS i ON i.inbox_id = t.inbox_id;
$$;

-- What became of claimed events: handled (an outcome), or put back (a time; none: a dead letter) with the cause. Fenced by
-- the attempt: who comes late changes nothing.
CREATE OR REPLACE FUNCTION settle_events(
    at timestamptz, inbox_ids uuid[], attempts integer[], outcomes text[], dues timestamptz[], causes text[]
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
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
    UPDATE inbox_lease AS l SET due_at = g.due, cause = g.cause
      FROM unnest(inbox_ids, attempts, outcomes, dues, causes) AS g (inbox_id, attempt, outcome, due, cause)
     WHERE l.inbox_id = g.inbox_id AND l.attempt = g.attempt AND g.outcome IS NULL;
END;
$$;

REVOKE ALL ON FUNCTION store_events, claim_events, settle_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION store_events, claim_events, settle_events TO coatcheck_app;
