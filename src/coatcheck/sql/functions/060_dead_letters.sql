-- What people may do with operations that wait for them. None of these decides what is asked of a PSP: the executor's
-- gate does, whoever made the operation due. A dead letter is an operation that is UNRESOLVED.

-- Make dead letters due again, each at its own time. Returns those that were waiting, at the attempt the caller knows of;
-- what has been asked about since, is due, held or decided is left alone. Locks: the leases.
CREATE OR REPLACE FUNCTION retry_dead_letters(
    at timestamptz, wanted uuid[], attempts integer[], dues timestamptz[], who text
) RETURNS TABLE (operation_id uuid)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH due AS (
        UPDATE lease AS l SET due_at = w.due
          FROM unnest(wanted, attempts, dues) AS w (operation_id, attempt, due)
         WHERE l.operation_id = w.operation_id AND l.attempt = w.attempt AND l.holder IS NULL AND l.due_at IS NULL
     RETURNING l.operation_id, l.due_at
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT o.payment_id, time_ordered_id(retry_dead_letters.at), 'dead_letter.retried', o.shop_id, o.mode,
               retry_dead_letters.at,
               json_build_object('operation_id', o.operation_id, 'order_id', o.order_id, 'attempt', o.attempt,
                                 'due_at', d.due_at, 'by', who)
          FROM due AS d JOIN operation AS o ON o.operation_id = d.operation_id
    )
    SELECT d.operation_id FROM due AS d;
$$;

-- Propose to have many dead letters asked again at once, for a second person to confirm. Nothing becomes due.
CREATE OR REPLACE FUNCTION propose_replay(
    at timestamptz, new_replay_id uuid, of_shop uuid, of_mode text, wanted uuid[], wanted_attempts integer[], who text,
    new_expires_at timestamptz, event_id uuid
) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO replay_proposal (replay_id, shop_id, mode, operation_ids, attempts, proposed_by, proposed_at, expires_at)
    VALUES (new_replay_id, of_shop, of_mode, wanted, wanted_attempts, who, at, new_expires_at);
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (new_replay_id, propose_replay.event_id, 'dead_letter.replay_proposed',
            coalesce(of_shop, '00000000-0000-0000-0000-000000000000'), coalesce(of_mode, 'live'), at,
            json_build_object('replay_id', new_replay_id, 'operation_ids', wanted, 'attempts', wanted_attempts, 'by', who,
                              'expires_at', new_expires_at));
$$;

-- A second person confirms such a proposal: it is marked, and says which may be asked again, and at which attempt each was
-- looked at. 'confirmed'; 'exists' (this person's confirmation is marked already: what its process left undone may be done
-- again, for the attempts fence it); 'unknown'; 'taken' (a third person's); 'expired'; 'same_person'. Locks: the proposal.
CREATE OR REPLACE FUNCTION confirm_replay(
    at timestamptz, wanted uuid, of_shop uuid, of_mode text, who text, event_id uuid
) RETURNS TABLE (verdict text, operation_ids uuid[], attempts integer[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known replay_proposal;
    told text;
BEGIN
    SELECT * INTO known FROM replay_proposal AS r
     WHERE r.replay_id = wanted AND (of_shop IS NULL OR (r.shop_id = of_shop AND r.mode = of_mode))
       FOR UPDATE;
    told := CASE
        WHEN known.replay_id IS NULL THEN 'unknown'
        WHEN known.proposed_by = who THEN 'same_person'
        WHEN known.confirmed_by <> who THEN 'taken'
        WHEN known.expires_at <= confirm_replay.at THEN 'expired'
        WHEN known.confirmed_by = who THEN 'exists'
        ELSE 'confirmed' END;
    IF told = 'confirmed' THEN
        UPDATE replay_proposal AS r SET confirmed_by = who, confirmed_at = confirm_replay.at WHERE r.replay_id = wanted;
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        VALUES (wanted, confirm_replay.event_id, 'dead_letter.replay_confirmed',
                coalesce(known.shop_id, '00000000-0000-0000-0000-000000000000'), coalesce(known.mode, 'live'),
                confirm_replay.at,
                json_build_object('replay_id', wanted, 'operation_ids', known.operation_ids, 'attempts', known.attempts,
                                  'proposed_by', known.proposed_by, 'by', who));
    END IF;
    IF told IN ('confirmed', 'exists') THEN
        RETURN QUERY SELECT told, known.operation_ids, known.attempts;
    ELSE
        RETURN QUERY SELECT told, NULL::uuid[], NULL::integer[];
    END IF;
END;
$$;

-- Say what became of a dead letter, for a second person to confirm. 'proposed'; 'exists' (the same again); 'settled' (it
-- is no dead letter, or no more); 'taken' (somebody else's proposal is open). One's own is replaced.
-- Idempotent on who says what. Locks: the lease.
CREATE OR REPLACE FUNCTION propose_resolution(
    at timestamptz, wanted uuid, new_proposal_id uuid, new_word text, new_reference text, new_reason text, who text,
    new_expires_at timestamptz, event_id uuid
) RETURNS TABLE (verdict text, proposal_id uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    o operation;
    known resolution;
BEGIN
    PERFORM 1 FROM lease AS l WHERE l.operation_id = wanted FOR UPDATE;
    SELECT * INTO o FROM operation AS p WHERE p.operation_id = wanted;
    IF o.status IS DISTINCT FROM 'UNRESOLVED' THEN
        RETURN QUERY SELECT 'settled', NULL::uuid;
        RETURN;
    END IF;
    SELECT * INTO known FROM resolution AS r WHERE r.operation_id = wanted;
    IF known.confirmed_at IS NULL AND known.expires_at > propose_resolution.at THEN
        IF known.proposed_by <> who THEN
            RETURN QUERY SELECT 'taken', known.proposal_id;
            RETURN;
        END IF;
        IF (known.word, known.reason) = (new_word, new_reason)
           AND known.provider_reference IS NOT DISTINCT FROM new_reference THEN
            RETURN QUERY SELECT 'exists', known.proposal_id;
            RETURN;
        END IF;
    END IF;
    INSERT INTO resolution AS r (operation_id, proposal_id, word, provider_reference, reason, proposed_by, proposed_at, expires_at)
    VALUES (wanted, new_proposal_id, new_word, new_reference, new_reason, who, propose_resolution.at, new_expires_at)
    ON CONFLICT ON CONSTRAINT resolution_pkey DO UPDATE
       SET proposal_id = excluded.proposal_id, word = excluded.word, provider_reference = excluded.provider_reference,
           reason = excluded.reason, proposed_by = excluded.proposed_by, proposed_at = excluded.proposed_at,
           expires_at = excluded.expires_at, confirmed_by = NULL, confirmed_at = NULL;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (o.payment_id, propose_resolution.event_id, 'dead_letter.resolution_proposed', o.shop_id, o.mode,
            propose_resolution.at,
            json_build_object('operation_id', o.operation_id, 'order_id', o.order_id, 'proposal_id', new_proposal_id,
                              'word', new_word, 'provider_reference', new_reference, 'reason', new_reason, 'by', who,
                              'expires_at', new_expires_at));
    RETURN QUERY SELECT 'proposed', new_proposal_id;
END;
$$;

-- A second person confirms: the proposal is marked and the operation taken over in one commit, so that its answer can be
-- booked like a PSP's, under its attempt number. 'confirmed' with that number; 'exists' (this person's confirmation is
-- booked already); 'settled'; 'busy' (a process is asking the PSP at this moment); 'unknown' (no such proposal, or another
-- one by now); 'expired'; 'same_person'. A confirmation whose process died before the booking may be given again.
-- Locks: the lease.
CREATE OR REPLACE FUNCTION confirm_resolution(
    at timestamptz, wanted uuid, wanted_proposal uuid, who text, new_holder uuid, lease_until timestamptz, event_id uuid
) RETURNS TABLE (verdict text, attempt integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    l lease;
    o operation;
    known resolution;
    refusal text;
BEGIN
    SELECT * INTO l FROM lease AS held WHERE held.operation_id = wanted FOR UPDATE;
    SELECT * INTO o FROM operation AS p WHERE p.operation_id = wanted;
    SELECT * INTO known FROM resolution AS r WHERE r.operation_id = wanted AND r.proposal_id = wanted_proposal;
    refusal := CASE
        WHEN known.operation_id IS NULL THEN 'unknown'
        WHEN known.proposed_by = who THEN 'same_person'
        WHEN o.status IN ('APPROVED', 'DECLINED') AND known.confirmed_by = who THEN 'exists'
        WHEN o.status <> 'UNRESOLVED' THEN 'settled'
        WHEN known.expires_at <= confirm_resolution.at THEN 'expired'
        WHEN l.holder IS NOT NULL AND l.due_at > confirm_resolution.at THEN 'busy' END;
    IF refusal IS NOT NULL THEN
        RETURN QUERY SELECT refusal, NULL::integer;
        RETURN;
    END IF;
    UPDATE resolution AS r SET confirmed_by = who, confirmed_at = confirm_resolution.at WHERE r.operation_id = wanted;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (o.payment_id, confirm_resolution.event_id, 'dead_letter.resolution_confirmed', o.shop_id, o.mode,
            confirm_resolution.at,
            json_build_object('operation_id', o.operation_id, 'order_id', o.order_id, 'proposal_id', known.proposal_id,
                              'word', known.word, 'provider_reference', known.provider_reference,
                              'reason', known.reason, 'proposed_by', known.proposed_by, 'by', who));
    RETURN QUERY SELECT 'confirmed', t.attempt
                   FROM take_leases(confirm_resolution.at, new_holder, lease_until, ARRAY[wanted], true) AS t;
END;
$$;

-- All that somebody should look at, as one snapshot sees it: one row for each subject of the kinds asked for. The trouble
-- of an undecided operation is found through its lease, so a look costs what is undecided, not what there is.
-- An unknown answer is old by its provider's window: `unknown_before` has one time for each of `providers`.
-- What is wrong with the invariants was read by the caller in this transaction: `broken` are their names.
CREATE OR REPLACE FUNCTION alert_conditions(
    at timestamptz, kinds text[], stuck_before timestamptz, overdue_before timestamptz, expiring_before timestamptz,
    transaction_age interval, providers text[], unknown_before timestamptz[], broken text[], broken_details text[],
    evidence_due_before timestamptz
) RETURNS TABLE (kind text, subject text, subject_id uuid, shop_id uuid, mode text, since timestamptz, detail json)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH undecided AS MATERIALIZED (
        SELECT o.*, l.holder, l.due_at, p.payment_order_id, p.status AS order_status, p.created_at AS order_created_at
          FROM lease AS l
          JOIN operation AS o ON o.operation_id = l.operation_id
          LEFT JOIN payment_order AS p ON p.order_id = o.order_id
    )
    SELECT 'order_stuck', u.order_id::text, u.payment_id, u.shop_id, u.mode, u.order_created_at,
           json_build_object('order_id', u.order_id, 'payment_order_id', u.payment_order_id,
                             'operation_id', u.operation_id, 'operation_status', u.status, 'attempt', u.attempt,
                             'cause', u.cause)
      FROM undecided AS u
     WHERE 'order_stuck' = ANY (kinds) AND u.kind IN ('charge', 'authorize') AND u.order_status = 'EXECUTING'
       AND u.order_created_at <= stuck_before
    UNION ALL
    SELECT 'operation_unresolved', u.operation_id::text, u.payment_id, u.shop_id, u.mode, u.created_at,
           json_build_object('operation_id', u.operation_id, 'operation_kind', u.kind,
                             'payment_order_id', u.payment_order_id, 'attempt', u.attempt, 'cause', u.cause)
      FROM undecided AS u
     WHERE 'operation_unresolved' = ANY (kinds) AND u.status = 'UNRESOLVED'
    UNION ALL
    SELECT 'lease_expired_long', u.operation_id::text, u.payment_id, u.shop_id, u.mode, u.due_at,
           json_build_object('operation_id', u.operation_id, 'operation_kind', u.kind,
                             'payment_order_id', u.payment_order_id, 'attempt', u.attempt, 'holder', u.holder)
      FROM undecided AS u
     WHERE 'lease_expired_long' = ANY (kinds) AND u.due_at <= overdue_before
    UNION ALL
    SELECT 'unknown_old', u.operation_id::text, u.payment_id, u.shop_id, u.mode, u.first_sent_at,
           json_build_object('operation_id', u.operation_id, 'operation_kind', u.kind,
                             'payment_order_id', u.payment_order_id, 'provider', u.provider, 'attempt', u.attempt,
                             'cause', u.cause)
      FROM undecided AS u
      JOIN unnest(providers, unknown_before) AS w (provider, before) ON w.provider = u.provider
     WHERE 'unknown_old' = ANY (kinds) AND u.status IN ('OPEN', 'UNRESOLVED') AND u.first_sent_at <= w.before
    UNION ALL
    SELECT e.kind, p.order_id::text, p.payment_id, p.shop_id, p.mode, p.expires_at,
           json_build_object('order_id', p.order_id, 'payment_order_id', p.payment_order_id,
                             'expires_at', p.expires_at, 'amount_minor', p.authorized_minor - p.captured_minor,
                             'currency', p.currency::text)
      FROM authorization_watch AS w
      JOIN payment_order AS p ON p.order_id = w.order_id
     CROSS JOIN LATERAL (SELECT CASE WHEN p.expires_at <= alert_conditions.at THEN 'authorization_lapsed'
                                     ELSE 'authorization_expiring' END AS kind) AS e
     WHERE e.kind = ANY (kinds) AND p.status = 'AUTHORIZED' AND p.expires_at <= expiring_before
    UNION ALL
    -- Answers about another charge, while their operation waits; and what webhooks and look-ups told, until a person has
    -- seen to it.
    SELECT 'charged_twice', t.order_id::text, min(t.payment_id::text)::uuid, min(t.shop_id::text)::uuid, min(t.mode), min(t.since),
           json_build_object('order_id', t.order_id, 'payment_order_id', min(t.payment_order_id),
                             'amount_minor', min(t.amount_minor), 'currency', min(t.currency),
                             'provider', min(t.provider), 'provider_reference', min(t.known),
                             'other_reference', string_agg(DISTINCT t.other, ' and '))
      FROM (SELECT u.order_id, u.payment_id, u.shop_id, u.mode, u.created_at AS since, u.payment_order_id, u.amount_minor,
                   u.currency::text AS currency, u.provider, u.provider_reference AS known,
                   substring(u.cause FROM 'provider_reference ''([^'']+)'' instead of') AS other
              FROM undecided AS u
             WHERE u.status = 'UNRESOLVED' AND u.kind IN ('charge', 'authorize') AND u.provider_reference IS NOT NULL
               AND u.cause LIKE 'the provider''s answer is about something else: %provider\_reference % instead of %'
            UNION ALL
            SELECT p.order_id, p.payment_id, p.shop_id, p.mode, e.at, p.payment_order_id, p.amount_minor,
                   p.currency::text, p.provider, p.provider_reference, e.body ->> 'provider_reference'
              FROM event AS e
              JOIN payment_order AS p ON p.order_id = (e.body ->> 'order_id')::uuid
             WHERE e.kind = 'order.charged_twice'
               -- A look-up tells of every one; that one of them is booked by now is as it should be.
               AND e.body ->> 'provider_reference' IS DISTINCT FROM p.provider_reference
               -- A charge that was told of before somebody saw to it is seen to, however often it is told again.
               AND NOT EXISTS (SELECT FROM event AS a JOIN event AS f ON f.subject_id = a.subject_id AND f.at <= a.at
                                WHERE a.subject_id = e.subject_id AND a.kind = 'alert.acknowledged'
                                  AND a.body ->> 'subject' = p.order_id::text AND f.kind = e.kind
                                  AND f.body ->> 'order_id' = e.body ->> 'order_id'
                                  AND f.body ->> 'provider_reference' = e.body ->> 'provider_reference')
           ) AS t
     WHERE 'charged_twice' = ANY (kinds)
     GROUP BY t.order_id
    UNION ALL
    SELECT 'webhook_dead', i.inbox_id::text, i.inbox_id, n.nil, i.mode, i.received_at,
           json_build_object('inbox_id', i.inbox_id, 'provider', i.provider, 'event_id', i.event_id,
                             'attempt', d.attempt, 'cause', d.cause)
      FROM inbox_lease AS d
      JOIN inbox AS i ON i.inbox_id = d.inbox_id,
           (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil)
     WHERE 'webhook_dead' = ANY (kinds) AND d.due_at IS NULL
    UNION ALL
    SELECT 'settlement_late', k.break_id::text, k.break_id, k.shop_id, k.mode, k.opened_at,
           json_build_object('break_id', k.break_id, 'provider', k.provider, 'about', k.detail)
      FROM reconciliation_break AS k
     WHERE 'settlement_late' = ANY (kinds) AND k.kind = 'late' AND k.file_id IS NULL AND k.closed_at IS NULL
    UNION ALL
    -- What stands in an entry at a bank may say who a person is: that is left to the break.
    SELECT 'break_escalated', k.break_id::text, k.break_id, k.shop_id, k.mode, k.opened_at,
           json_build_object('break_id', k.break_id, 'provider', k.provider, 'break_kind', k.kind, 'file', f.name,
                             'line', k.line_no, 'currency', k.currency, 'expected_minor', k.expected_minor,
                             'stated_minor', k.stated_minor,
                             'about', CASE k.provider WHEN 'bank' THEN 'an entry of a statement' ELSE k.detail END)
      FROM escalated_break AS e
      JOIN reconciliation_break AS k ON k.break_id = e.break_id
      LEFT JOIN settlement_file AS f ON f.file_id = k.file_id
     WHERE 'break_escalated' = ANY (kinds) AND k.closed_at IS NULL
    UNION ALL
    SELECT 'sealing_overdue', 'seals', md5('sealing_overdue seals')::uuid, nil, 'live', s.due_at,
           json_build_object('due_at', s.due_at, 'last_seal_no', (SELECT max(q.seal_no) FROM seal AS q))
      FROM seal_progress AS s,
           (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil)
     WHERE 'sealing_overdue' = ANY (kinds) AND s.due_at <= overdue_before
    UNION ALL
    SELECT * FROM dispute_alert_conditions(alert_conditions.at, kinds, evidence_due_before)
    UNION ALL
    SELECT 'payout_run_waiting', r.run_id::text, r.run_id, r.shop_id, r.mode, r.proposed_at,
           json_build_object('run_id', r.run_id, 'schedule', r.schedule, 'currency', r.currency::text, 'items', r.items,
                             'total_minor', r.total_minor, 'usual_minor', r.usual_minor, 'proposed_by', r.proposed_by)
      FROM payout_run AS r
     WHERE 'payout_run_waiting' = ANY (kinds) AND r.status = 'WAITING'
    UNION ALL
    SELECT 'invariant_broken', b.name, md5('invariant ' || b.name)::uuid, nil, 'live', alert_conditions.at, b.detail::json
      FROM unnest(broken, broken_details) AS b (name, detail),
           (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil)
     WHERE 'invariant_broken' = ANY (kinds)
    UNION ALL
    -- PostgreSQL's own clock on both sides: how long a transaction has been open is no decision about a payment.
    SELECT 'transaction_old', 'database', md5('transaction_old database')::uuid, nil, 'live',
           alert_conditions.at - (clock_timestamp() - min(t.began)),
           json_build_object('age_s', extract(epoch FROM clock_timestamp() - min(t.began))::bigint,
                             'who', (array_agg(t.who ORDER BY t.began))[1])
      FROM (SELECT a.xact_start AS began,
                   format('process %s (%s, %s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.state) AS who
              FROM pg_stat_activity AS a
             WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            UNION ALL
            SELECT x.prepared, 'prepared transaction ' || x.gid FROM pg_prepared_xacts AS x
             WHERE x.database = current_database()) AS t,
           (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS n (nil)
     WHERE 'transaction_old' = ANY (kinds) AND t.began IS NOT NULL
     GROUP BY n.nil
    HAVING clock_timestamp() - min(t.began) > transaction_age;
$$;

-- Look, open the alerts of what is newly so, close those of what is so no more: one statement, so what is written is what
-- was read. At most `most` alerts of a kind are opened, the longest-standing first: an outage is told a hundred times,
-- not a hundred thousand. Returns what changed ('opened', 'closed'), and for each kind a row 'standing' with how much of
-- it there is. Idempotent; of several watchers one opens and one closes.
CREATE OR REPLACE FUNCTION watch_alerts(
    at timestamptz, kinds text[], stuck_before timestamptz, overdue_before timestamptz, expiring_before timestamptz,
    transaction_age interval, providers text[], unknown_before timestamptz[], broken text[], broken_details text[],
    most integer, evidence_due_before timestamptz
) RETURNS TABLE (change text, kind text, subject text, since timestamptz, detail text, standing bigint)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH found AS MATERIALIZED (
        SELECT c.*, row_number() OVER (PARTITION BY c.kind ORDER BY c.since, c.subject) AS place
          FROM alert_conditions(watch_alerts.at, kinds, stuck_before, overdue_before, expiring_before, transaction_age,
                                providers, unknown_before, broken, broken_details, evidence_due_before) AS c
    ), opened AS (
        INSERT INTO alert (kind, subject, subject_id, shop_id, mode, since, detail, opened_at)
        SELECT f.kind, f.subject, f.subject_id, f.shop_id, f.mode, f.since, f.detail, watch_alerts.at
          FROM found AS f WHERE f.place <= most
        ON CONFLICT DO NOTHING
     RETURNING *
    ), closed AS (
        DELETE FROM alert AS a
         WHERE a.kind = ANY (kinds)
           AND NOT EXISTS (SELECT FROM found AS f WHERE f.kind = a.kind AND f.subject = a.subject)
     RETURNING *
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT c.subject_id, time_ordered_id(watch_alerts.at), c.event_kind, c.shop_id, c.mode, watch_alerts.at,
               json_build_object('alert', c.kind, 'subject', c.subject, 'since', c.since, 'detail', c.detail)
          FROM (SELECT 'alert.opened' AS event_kind, o.* FROM opened AS o
                UNION ALL SELECT 'alert.closed', d.* FROM closed AS d) AS c
    )
    SELECT 'opened', o.kind, o.subject, o.since, o.detail::text, NULL::bigint FROM opened AS o
    UNION ALL SELECT 'closed', d.kind, d.subject, d.since, d.detail::text, NULL FROM closed AS d
    UNION ALL SELECT 'standing', f.kind, NULL, NULL, NULL, count(*) FROM found AS f GROUP BY f.kind;
$$;

-- A person has seen to what a 'charged_twice' alert told of: the next look closes it. False where no such alert is open.
CREATE OR REPLACE FUNCTION acknowledge_alert(at timestamptz, wanted_kind text, wanted text, who text, why text)
RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT a.subject_id, time_ordered_id(acknowledge_alert.at), 'alert.acknowledged', a.shop_id, a.mode,
               acknowledge_alert.at,
               json_build_object('alert', a.kind, 'subject', a.subject, 'by', who, 'reason', why)
          FROM alert AS a WHERE a.kind = wanted_kind AND a.subject = wanted
     RETURNING 1
    )
    SELECT EXISTS (SELECT FROM told);
$$;

-- Take the turn of a task that one process does for all; false while the last turn is younger than `every`. A task that
-- nobody has done yet has its first turn one interval from now: a new database has nothing to be looked through.
CREATE OR REPLACE FUNCTION take_watch_turn(at timestamptz, wanted text, every interval) RETURNS boolean
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH begun AS (
        INSERT INTO watch_turn (task, last_at) VALUES (wanted, take_watch_turn.at) ON CONFLICT DO NOTHING
    ), taken AS (
        UPDATE watch_turn AS t SET last_at = take_watch_turn.at
         WHERE t.task = wanted AND t.last_at <= take_watch_turn.at - every
     RETURNING 1
    )
    SELECT EXISTS (SELECT FROM taken);
$$;

REVOKE ALL ON FUNCTION retry_dead_letters, propose_replay, confirm_replay, propose_resolution, confirm_resolution, alert_conditions, watch_alerts,
    acknowledge_alert, take_watch_turn FROM PUBLIC;
GRANT EXECUTE ON FUNCTION retry_dead_letters, propose_replay, confirm_replay, propose_resolution, confirm_resolution, watch_alerts, acknowledge_alert,
    take_watch_turn TO coatcheck_app;
