-- What reconciliation does by itself: it takes the turn of a day, waits for files, and calls somebody for what must not wait.

-- Take the nightly run of a day, or take it up again when whoever had it is gone. Returns its attempt number, NULL where
-- the run has ended or somebody has it. The row is the turn: of any number of gateways one gets it.
CREATE OR REPLACE FUNCTION claim_nightly(
    at timestamptz, shop uuid, world text, wanted_day date, new_lease_until timestamptz
) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH claimed AS (
        INSERT INTO nightly_run AS n (shop_id, mode, day, attempt, lease_until)
        VALUES (shop, world, wanted_day, 1, new_lease_until)
        ON CONFLICT (shop_id, mode, day) DO UPDATE
           SET attempt = n.attempt + 1, lease_until = excluded.lease_until
         WHERE n.ended_at IS NULL AND n.lease_until <= claim_nightly.at
     RETURNING n.attempt
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT reconciliation_id('nightly', shop::text, world, wanted_day::text), time_ordered_id(claim_nightly.at),
               'nightly.begun', shop, world, claim_nightly.at,
               json_build_object('day', wanted_day, 'attempt', c.attempt, 'lease_until', new_lease_until)
          FROM claimed AS c
    )
    SELECT c.attempt FROM claimed AS c;
$$;

-- Keep a run, or leave it until then: false where somebody else has taken it up.
CREATE OR REPLACE FUNCTION hold_nightly(shop uuid, world text, wanted_day date, wanted_attempt integer, until timestamptz)
RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH held AS (
        UPDATE nightly_run AS n SET lease_until = until
         WHERE n.shop_id = shop AND n.mode = world AND n.day = wanted_day AND n.attempt = wanted_attempt
           AND n.ended_at IS NULL
     RETURNING 1
    )
    SELECT EXISTS (SELECT FROM held);
$$;

-- End a run with its counts: false where it has ended, or somebody else has taken it up.
CREATE OR REPLACE FUNCTION end_nightly(
    at timestamptz, shop uuid, world text, wanted_day date, wanted_attempt integer, new_taken integer, new_refused integer
) RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH ended AS (
        UPDATE nightly_run AS n SET ended_at = end_nightly.at, taken = new_taken, refused = new_refused
         WHERE n.shop_id = shop AND n.mode = world AND n.day = wanted_day AND n.attempt = wanted_attempt
           AND n.ended_at IS NULL
     RETURNING n.attempt
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT reconciliation_id('nightly', shop::text, world, wanted_day::text), time_ordered_id(end_nightly.at),
               'nightly.ended', shop, world, end_nightly.at,
               json_build_object('day', wanted_day, 'attempt', e.attempt, 'taken', new_taken, 'refused', new_refused)
          FROM ended AS e
    )
    SELECT EXISTS (SELECT FROM ended);
$$;

-- Wait for the files of days, each until its time. Idempotent.
CREATE OR REPLACE FUNCTION expect_files(
    at timestamptz, shop uuid, world text, providers text[], days date[], dues timestamptz[]
) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH made AS (
        INSERT INTO expected_file (shop_id, mode, provider, day, due_at)
        SELECT shop, world, w.provider, w.day, w.due
          FROM unnest(providers, days, dues) AS w (provider, day, due)
        ON CONFLICT DO NOTHING
     RETURNING *
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT reconciliation_id('expected file', shop::text, world, m.provider, m.day::text),
           time_ordered_id(expect_files.at), 'file.expected', shop, world, expect_files.at,
           json_build_object('provider', m.provider, 'day', m.day, 'due_at', m.due_at)
      FROM made AS m;
$$;

-- Note that a file is what was waited for, and close the break that its lateness was. Idempotent. Locks: the expectation.
CREATE OR REPLACE FUNCTION arrive_file(
    at timestamptz, shop uuid, world text, psp text, wanted_day date, new_file_id uuid
) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH arrived AS (
        UPDATE expected_file AS e SET file_id = new_file_id, arrived_at = arrive_file.at
         WHERE e.shop_id = shop AND e.mode = world AND e.provider = psp AND e.day = wanted_day AND e.file_id IS NULL
     RETURNING reconciliation_id('expected file', shop::text, world, psp, e.day::text) AS expected_id
    ), closed AS (
        UPDATE reconciliation_break AS k
           SET closed_at = arrive_file.at, closed_by = 'coatcheck', reason = 'the file has come'
          FROM arrived AS a
         WHERE k.break_id = a.expected_id AND k.closed_at IS NULL
     RETURNING k.*
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT a.expected_id, time_ordered_id(arrive_file.at), 'file.arrived', shop, world, arrive_file.at,
           json_build_object('provider', psp, 'day', wanted_day, 'file_id', new_file_id)
      FROM arrived AS a
     UNION ALL
    SELECT c.break_id, time_ordered_id(arrive_file.at), 'break.closed', shop, world, arrive_file.at,
           json_build_object('break_id', c.break_id, 'kind', c.kind, 'by', c.closed_by, 'reason', c.reason,
                             'transfers', '[]'::json)
      FROM closed AS c
     UNION ALL
    SELECT c.break_id, time_ordered_id(arrive_file.at), 'break.recorded', shop, world, arrive_file.at, row_to_json(c)
      FROM closed AS c;
$$;

-- Note the day of a file that was just taken, and what its batches leave. It is the file that was waited for on its day;
-- where no file of that day is waited for, as on a weekend, of the last such day before. A file without movements has no
-- day, and is the one that was waited for longest. Idempotent.
CREATE OR REPLACE FUNCTION note_file(at timestamptz, new_file_id uuid, shop uuid, world text, psp text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    told date;
    awaited date;
BEGIN
    IF psp = 'bank' THEN
        SELECT max(l.booked_on) INTO told FROM bank_line AS l WHERE l.file_id = new_file_id;
    ELSE
        WITH kept AS (
            INSERT INTO batch_rest AS r (shop_id, mode, provider, batch, currency, file_id, rest_minor, told_at)
            SELECT shop, world, psp, l.batch, l.currency, new_file_id, sum(l.net_minor), max(l.occurred_at)
              FROM settlement_line AS l
             WHERE l.file_id = new_file_id
             GROUP BY l.batch, l.currency
            ON CONFLICT ON CONSTRAINT batch_rest_pkey DO UPDATE
               SET file_id = excluded.file_id, rest_minor = excluded.rest_minor, told_at = excluded.told_at
         RETURNING r.told_at
        )
        SELECT (max(k.told_at) AT TIME ZONE 'UTC')::date INTO told FROM kept AS k;
    END IF;
    IF told IS NULL THEN
        SELECT min(e.day) INTO awaited FROM expected_file AS e
         WHERE e.shop_id = shop AND e.mode = world AND e.provider = psp AND e.file_id IS NULL;
    ELSE
        INSERT INTO file_day (file_id, shop_id, mode, provider, day) VALUES (new_file_id, shop, world, psp, told)
        ON CONFLICT DO NOTHING;
        SELECT max(e.day) INTO awaited FROM expected_file AS e
         WHERE e.shop_id = shop AND e.mode = world AND e.provider = psp AND e.day BETWEEN told - 3 AND told;
    END IF;
    PERFORM arrive_file(note_file.at, shop, world, psp, awaited, new_file_id);
END;
$$;

-- What is late: opens a break for each file that is due and not here. Files of exactly that day that were noted while nobody
-- waited yet have arrived. Returns how many breaks it opened. Idempotent: one break for each day's file, ever.
CREATE OR REPLACE FUNCTION break_late_files(at timestamptz, shop uuid, world text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    late integer;
BEGIN
    PERFORM arrive_file(break_late_files.at, shop, world, h.provider, h.day, h.file_id)
       FROM (SELECT DISTINCT ON (d.provider, d.day) d.provider, d.day, d.file_id
               FROM expected_file AS e
               JOIN file_day AS d ON d.shop_id = e.shop_id AND d.mode = e.mode AND d.provider = e.provider AND d.day = e.day
              WHERE e.shop_id = shop AND e.mode = world AND e.file_id IS NULL
              ORDER BY d.provider, d.day, d.file_id) AS h;
    WITH opened AS (
        INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, suspense_minor, detail, opened_at)
        SELECT reconciliation_id('expected file', shop::text, world, e.provider, e.day::text), shop, world, e.provider,
               'late', 0,
               format('the file of %s was due until %s UTC', e.day,
                      to_char(e.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')),
               break_late_files.at
          FROM expected_file AS e
         WHERE e.shop_id = shop AND e.mode = world AND e.file_id IS NULL AND e.due_at <= break_late_files.at
        ON CONFLICT (break_id) DO NOTHING
     RETURNING *
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT o.break_id, time_ordered_id(break_late_files.at), 'file.late', shop, world, break_late_files.at,
               json_build_object('break_id', o.break_id, 'provider', o.provider, 'detail', o.detail,
                                 'opened_at', o.opened_at)
          FROM opened AS o
         UNION ALL
        SELECT o.break_id, time_ordered_id(break_late_files.at), 'break.recorded', shop, world, break_late_files.at,
               row_to_json(o)
          FROM opened AS o
    )
    SELECT count(*) INTO late FROM opened;
    RETURN late;
END;
$$;

-- Call somebody for the open breaks of these kinds, each once. A file that is late has an alert of its own. Returns how many
-- are new.
CREATE OR REPLACE FUNCTION escalate_breaks(at timestamptz, shop uuid, world text, kinds text[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH escalated AS (
        INSERT INTO escalated_break (break_id, escalated_at)
        SELECT k.break_id, escalate_breaks.at
          FROM reconciliation_break AS k
         WHERE k.shop_id = shop AND k.mode = world AND k.closed_at IS NULL AND k.kind = ANY (kinds)
           AND NOT (k.kind = 'late' AND k.file_id IS NULL)
        ON CONFLICT DO NOTHING
     RETURNING break_id
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT e.break_id, time_ordered_id(escalate_breaks.at), 'break.escalated', shop, world, escalate_breaks.at,
               json_build_object('break_id', e.break_id)
          FROM escalated AS e
    )
    SELECT count(*)::integer FROM escalated;
$$;

REVOKE ALL ON FUNCTION claim_nightly, hold_nightly, end_nightly, expect_files, arrive_file, note_file, break_late_files,
    escalate_breaks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION claim_nightly, hold_nightly, end_nightly, expect_files, note_file, break_late_files, escalate_breaks
    TO coatcheck_app;
