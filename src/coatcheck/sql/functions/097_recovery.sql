-- Recovery: the books were restored from a backup and have forgotten what was charged since (hazard G16). Until the PSP has
-- told, nobody asks it for money.

-- Refuse what would ask a PSP for money while the books are being made whole; the API answers 503.
CREATE OR REPLACE FUNCTION refuse_while_recovering() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM recovery WHERE finished_at IS NULL) THEN
        RAISE EXCEPTION 'the gateway is recovering' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END;
$$;

-- Close the door, or find it closed: a recovery that was not finished is taken up again, from the earlier time of the two.
-- Returns its id and time. Idempotent while it is not finished.
CREATE OR REPLACE FUNCTION begin_recovery(at timestamptz, new_id uuid, from_when timestamptz, who text)
RETURNS TABLE (recovery_id uuid, since timestamptz)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO recovery (recovery_id, since, begun_at, begun_by) VALUES (new_id, from_when, at, who)
    ON CONFLICT DO NOTHING;
    UPDATE recovery AS r SET since = least(r.since, from_when) WHERE r.finished_at IS NULL;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT r.recovery_id, time_ordered_id(begin_recovery.at), 'recovery.begun', '00000000-0000-0000-0000-000000000000',
           'live', begin_recovery.at,
           json_build_object('recovery_id', r.recovery_id, 'since', r.since, 'begun_at', r.begun_at, 'begun_by', r.begun_by,
                             'finished_at', r.finished_at, 'by', who)
      FROM recovery AS r WHERE r.finished_at IS NULL;
    RETURN QUERY SELECT r.recovery_id, r.since FROM recovery AS r WHERE r.finished_at IS NULL;
END;
$$;

-- What is undecided in a restored database may have been sent since the backup: its window counts from its beginning, and
-- nobody holds it. Returns the operations that are undecided. Locks: their leases.
CREATE OR REPLACE FUNCTION doubt_operations(at timestamptz) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH freed AS (
        UPDATE lease AS l SET holder = NULL WHERE l.holder IS NOT NULL
    ), doubted AS (
        UPDATE operation AS o SET first_sent_at = o.created_at
          FROM lease AS l
         WHERE l.operation_id = o.operation_id AND o.first_sent_at IS NULL AND o.status IN ('OPEN', 'UNRESOLVED')
     RETURNING o.*
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT d.payment_id, time_ordered_id(doubt_operations.at), 'operation.doubted', d.shop_id, d.mode,
               doubt_operations.at,
               json_build_object('operation_id', d.operation_id, 'order_id', d.order_id, 'kind', d.kind,
                                 'attempt', d.attempt, 'first_sent_at', d.first_sent_at)
          FROM doubted AS d
    )
    SELECT l.operation_id FROM lease AS l;
$$;

-- The books are whole: let traffic in. False when that was said already.
CREATE OR REPLACE FUNCTION finish_recovery(at timestamptz, wanted uuid, who text, counted json) RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH finished AS (
        UPDATE recovery AS r SET finished_at = at WHERE r.recovery_id = wanted AND r.finished_at IS NULL RETURNING r.*
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT f.recovery_id, time_ordered_id(finish_recovery.at), 'recovery.finished',
               '00000000-0000-0000-0000-000000000000', 'live', finish_recovery.at,
               json_build_object('recovery_id', f.recovery_id, 'since', f.since, 'begun_at', f.begun_at,
                                 'begun_by', f.begun_by, 'finished_at', f.finished_at, 'by', who, 'counted', counted)
          FROM finished AS f
    )
    SELECT EXISTS (SELECT FROM finished);
$$;

REVOKE ALL ON FUNCTION refuse_while_recovering, begin_recovery, doubt_operations, finish_recovery FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_recovery, doubt_operations, finish_recovery TO coatcheck_app;
