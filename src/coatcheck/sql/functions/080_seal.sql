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

-- Columns as they are digested: the length in four bytes, then the content; NULL is ff ff ff ff. docs/audit.md has the format. A
-- row has a dozen of them: lengths that are known are written out, and each function is as volatile as what it calls, for
-- otherwise it is not inlined.
CREATE OR REPLACE FUNCTION sealed_id(content uuid) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce('\x00000010'::bytea || uuid_send(content), '\xffffffff'::bytea);

CREATE OR REPLACE FUNCTION sealed_time(content timestamptz) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce('\x00000008'::bytea || timestamptz_send(content), '\xffffffff'::bytea);

CREATE OR REPLACE FUNCTION sealed_number(content bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce('\x00000008'::bytea || int8send(content), '\xffffffff'::bytea);

CREATE OR REPLACE FUNCTION sealed_text(content text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(int4send(octet_length(content)) || textsend(content), '\xffffffff'::bytea);

-- The rows in a stretch of blocks whose transactions are older than `youngest` and not older than `oldest`, as age(xmin)
-- counts; `and_unborn`: those too that are so old that they seem to lie ahead. An entry is a row's key, then its digest.
-- `roster` has the entries one after the other; `late` and `ancient` are those of rows whose own time is before that.
-- Here, not in the gateway: the rows need not be sent, and hashing them does not hold its one thread up.
CREATE OR REPLACE FUNCTION unsealed_events(
    first_block bigint, end_block bigint, youngest integer, oldest integer, and_unborn boolean,
    late_before timestamptz, ancient_before timestamptz,
    OUT roster bytea, OUT late bytea[], OUT ancient bytea[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    first_place CONSTANT tid := format('(%s,0)', first_block);
    end_place CONSTANT tid := format('(%s,0)', end_block);
BEGIN
    SELECT coalesce(string_agg(e.entry, ''), ''), array_agg(e.entry) FILTER (WHERE e.at < late_before),
           array_agg(e.entry) FILTER (WHERE e.at < ancient_before)
      INTO roster, late, ancient
      FROM (
        SELECT r.at, uuid_send(r.subject_id) || uuid_send(r.event_id) || sha256(
                   '\x0007'::bytea || sealed_id(r.subject_id) || sealed_id(r.event_id) || sealed_id(r.shop_id)
                   || sealed_time(r.at) || sealed_text(r.kind) || sealed_text(r.mode)
                   || coalesce(int4send(octet_length(r.json)) || r.json, '\xffffffff'::bytea)
               ) AS entry
          FROM (
            SELECT s.*, json_send(s.body) AS json FROM event AS s
             WHERE s.ctid >= first_place AND s.ctid < end_place
               AND age(s.xmin) <= oldest AND (age(s.xmin) > youngest OR (and_unborn AND age(s.xmin) < 0))
            OFFSET 0  -- so that the body is written once
          ) AS r
      ) AS e;
END
$$;

-- The same of transfers.
CREATE OR REPLACE FUNCTION unsealed_transfers(
    first_block bigint, end_block bigint, youngest integer, oldest integer, and_unborn boolean,
    late_before timestamptz, ancient_before timestamptz,
    OUT roster bytea, OUT late bytea[], OUT ancient bytea[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
DECLARE
    first_place CONSTANT tid := format('(%s,0)', first_block);
    end_place CONSTANT tid := format('(%s,0)', end_block);
BEGIN
    SELECT coalesce(string_agg(e.entry, ''), ''), array_agg(e.entry) FILTER (WHERE e.at < late_before),
           array_agg(e.entry) FILTER (WHERE e.at < ancient_before)
      INTO roster, late, ancient
      FROM (
        SELECT r.at, uuid_send(r.transfer_id) || sha256(
                   '\x000a'::bytea || sealed_id(r.transfer_id) || sealed_id(r.subject_id)
                   || sealed_id(r.debit_account_id) || sealed_id(r.credit_account_id)
                   || sealed_time(r.at) || sealed_number(r.amount_minor)
                   || sealed_text(r.kind) || sealed_text(r.phase) || sealed_text(r.currency) || sealed_id(r.hold_id)
               ) AS entry
          FROM transfer AS r
         WHERE r.ctid >= first_place AND r.ctid < end_place
           AND age(r.xmin) <= oldest AND (age(r.xmin) > youngest OR (and_unborn AND age(r.xmin) < 0))
      ) AS e;
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

REVOKE ALL ON FUNCTION begin_seal, unsealed_events, unsealed_transfers, write_seal, expect_seals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_seal, unsealed_events, unsealed_transfers, write_seal, expect_seals TO coatcheck_app;
