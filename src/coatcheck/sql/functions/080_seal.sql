-- Seals are written at the end of the chain and nowhere else, and never changed.

-- What a seal starts from, on the snapshot of the caller's transaction. All transactions below `horizon` are over; none
-- from `next_xid` on has begun. `horizon_age` is the horizon as age(xmin) counts. `place` names the file that the blocks
-- are counted in: a table that is rewritten, or restored elsewhere, has another. is_mine: nobody else seals now.
CREATE OR REPLACE FUNCTION begin_seal(
    OUT is_mine boolean, OUT horizon bigint, OUT next_xid bigint, OUT horizon_age integer, OUT last_seal_no bigint,
    OUT last_content text, OUT state text, OUT places text[], OUT blocks bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    is_mine := pg_try_advisory_xact_lock(hashtext('coatcheck: sealing'));
    IF NOT is_mine THEN
        RETURN;
    END IF;
    SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, age(pg_snapshot_xmin(s)::xid)
      INTO horizon, next_xid, horizon_age
      FROM pg_current_snapshot() AS s;
    SELECT s.seal_no, s.content INTO last_seal_no, last_content FROM seal AS s ORDER BY s.seal_no DESC LIMIT 1;
    SELECT p.state INTO state FROM seal_progress AS p;
    SELECT array_agg(format('%s/%s/%s', c.system_identifier, d.oid, pg_relation_filenode(t.name::regclass)) ORDER BY t.n),
           array_agg(pg_relation_size(t.name::regclass) / current_setting('block_size')::bigint ORDER BY t.n)
      INTO places, blocks
      FROM pg_control_system() AS c, pg_database AS d,
           (VALUES (1, 'public.event'), (2, 'public.transfer')) AS t (n, name)
     WHERE d.datname = current_database();
END
$$;

-- Adds a seal, or only notes how far sealing has looked (the first four NULL). A seal goes after the last one and names its
-- digest, or it is refused: two sealers, or one that saw an older state, cannot make a fork.
CREATE OR REPLACE FUNCTION write_seal(
    new_seal_no bigint, new_content text, new_signature bytea, new_event_roster bytea, new_transfer_roster bytea,
    new_state text, next_due_at timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    previous CONSTANT text := (
        SELECT encode(sha256(convert_to(s.content, 'UTF8')), 'hex') FROM seal AS s WHERE s.seal_no = new_seal_no - 1
    );
BEGIN
    IF new_seal_no IS NOT NULL THEN
        IF (new_content::json ->> 'previous') IS DISTINCT FROM coalesce(previous, repeat('0', 64))
           OR (previous IS NULL) <> (new_seal_no = 1) THEN
            RAISE EXCEPTION 'seal % does not continue the chain', new_seal_no USING ERRCODE = 'check_violation';
        END IF;
        INSERT INTO seal (seal_no, content, signature, event_roster, transfer_roster)
        VALUES (new_seal_no, new_content, new_signature, new_event_roster, new_transfer_roster);
    END IF;
    INSERT INTO seal_progress (due_at, state) VALUES (next_due_at, new_state::json)
        ON CONFLICT (only_row) DO UPDATE SET due_at = EXCLUDED.due_at, state = EXCLUDED.state;
END
$$;

-- A gateway that seals has started: from now on the watcher misses seals that are not made. Never brings an alert forward,
-- and gives whoever starts after a rest its time to look.
CREATE OR REPLACE FUNCTION expect_seals(next_due_at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO seal_progress AS p (due_at) VALUES (next_due_at)
        ON CONFLICT (only_row) DO UPDATE SET due_at = EXCLUDED.due_at WHERE p.due_at < EXCLUDED.due_at;
$$;

REVOKE ALL ON FUNCTION begin_seal, write_seal, expect_seals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_seal, write_seal, expect_seals TO coatcheck_app;
