-- Entries: the transfers again, by account and time. docs/decisions/0024-statements.md.

-- Notes a batch's transfers that count for the entries to be made of them, in the batch's own transaction. One row for
-- a batch of any size; nothing is looked up, and nothing is locked.
CREATE OR REPLACE FUNCTION entry_note(transfer_ids uuid[], phases text[], outcomes text[], at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF 'posted' = ALL (outcomes) AND 'posted' = ALL (phases) AND cardinality(transfer_ids) > 0 THEN  -- the usual batch
        INSERT INTO entry_queue (queue_id, at, transfers, transfer_ids)
        VALUES (gen_random_uuid(), entry_note.at, cardinality(transfer_ids), transfer_ids);
        RETURN;
    END IF;
    INSERT INTO entry_queue (queue_id, at, transfers, transfer_ids)
    SELECT gen_random_uuid(), entry_note.at, count(*), array_agg(transfer_id)
    FROM (
        SELECT unnest(transfer_ids) AS transfer_id, unnest(phases) AS phase, unnest(outcomes) AS outcome
    ) AS item
    WHERE outcome = 'posted' AND phase IN ('posted', 'captured')
    HAVING count(*) > 0;
END
$$;

-- Makes the entries of these transfers, and counts them into the days of their accounts. Each transfer is looked up once.
-- Where one is older than entries that are there (its batch committed late), those count it from now on: an account's later
-- entries are read again, and each gets what is new before it.
CREATE OR REPLACE FUNCTION entries_write(wanted_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    WITH moved AS MATERIALIZED (
        SELECT transfer_id, at, kind, debit_account_id, credit_account_id, amount_minor
        FROM transfer WHERE transfer_id = ANY (wanted_ids)
    ), side AS MATERIALIZED (
        SELECT debit_account_id AS account_id, credit_account_id AS counter_id, at, transfer_id, kind,
               amount_minor AS debit_minor, 0::bigint AS credit_minor
        FROM moved
        UNION ALL
        SELECT credit_account_id, debit_account_id, at, transfer_id, kind, 0, amount_minor FROM moved
    ), between_two AS MATERIALIZED (
        SELECT account_id, counter_id, (at AT TIME ZONE 'UTC')::date AS day, kind,
               sum(debit_minor) AS debits_minor, sum(credit_minor) AS credits_minor, count(*) AS transfers
        FROM side GROUP BY 1, 2, 3, 4
    ), counted_days AS (
        -- Not of sellers, who are many and in no report.
        INSERT INTO account_day AS known (account_id, day, kind, counter_kind, debits_minor, credits_minor, transfers)
        SELECT moves.account_id, day, moves.kind, counter.kind, sum(debits_minor), sum(credits_minor), sum(transfers)
        FROM between_two AS moves
        JOIN account AS own ON own.account_id = moves.account_id
        JOIN account AS counter ON counter.account_id = moves.counter_id
        WHERE own.kind NOT IN ('seller_pending', 'seller_available', 'payouts_in_transit')
        GROUP BY 1, 2, 3, 4
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (account_id, day, kind, counter_kind) DO UPDATE
            SET debits_minor = known.debits_minor + EXCLUDED.debits_minor,
                credits_minor = known.credits_minor + EXCLUDED.credits_minor,
                transfers = known.transfers + EXCLUDED.transfers
    ), moment AS MATERIALIZED (
        SELECT account_id, at, count(*)::integer AS transfers, array_agg(transfer_id) AS transfer_ids,
               sum(debit_minor) AS debit_minor, sum(credit_minor) AS credit_minor
        FROM side GROUP BY account_id, at
    ), first AS MATERIALIZED (
        SELECT account_id, min(at) AS at FROM moment GROUP BY account_id
    ), line AS (
        SELECT account_id, at, transfers, transfer_ids, debit_minor, credit_minor,
               NULL::bigint AS known_debits, NULL::bigint AS known_credits
        FROM moment
        UNION ALL
        -- The entry before an account's first new moment, and all from that moment on.
        SELECT first.account_id, known.at, NULL, NULL, 0, 0, known.debits_minor, known.credits_minor
        FROM first
        CROSS JOIN LATERAL (
            (SELECT at, debits_minor, credits_minor FROM account_entry AS earlier
             WHERE earlier.account_id = first.account_id AND earlier.at < first.at
             ORDER BY earlier.at DESC LIMIT 1)
            UNION ALL
            SELECT at, debits_minor, credits_minor FROM account_entry AS later
            WHERE later.account_id = first.account_id AND later.at >= first.at
        ) AS known
    ), counted AS MATERIALIZED (
        -- A posted counter only grows, so the largest up to a moment is that of the last entry by then.
        SELECT account_id, at, transfers, transfer_ids, count(transfers) OVER (PARTITION BY account_id, at) > 0 AS is_new,
               (coalesce(max(known_debits) OVER past, 0) + sum(debit_minor) OVER past)::bigint AS debits_minor,
               (coalesce(max(known_credits) OVER past, 0) + sum(credit_minor) OVER past)::bigint AS credits_minor,
               known_debits, known_credits
        FROM line
        WINDOW past AS (PARTITION BY account_id ORDER BY at)
    ), shifted AS (
        UPDATE account_entry AS entry SET debits_minor = counted.debits_minor, credits_minor = counted.credits_minor
        FROM counted
        WHERE NOT is_new
          AND (counted.debits_minor, counted.credits_minor) <> (known_debits, known_credits)
          AND entry.account_id = counted.account_id AND entry.at = counted.at
    )
    INSERT INTO account_entry AS known (account_id, at, transfers, transfer_ids, debits_minor, credits_minor)
    SELECT account_id, at, transfers, transfer_ids, debits_minor, credits_minor FROM counted WHERE transfers > 0
    ON CONFLICT (account_id, at) DO UPDATE  -- another batch had the very same moment
        SET transfers = known.transfers + EXCLUDED.transfers, transfer_ids = known.transfer_ids || EXCLUDED.transfer_ids,
            debits_minor = EXCLUDED.debits_minor, credits_minor = EXCLUDED.credits_minor;
END
$$;

-- Makes entries of queued transfers older than `before`, the oldest first, until there were `most`; returns how many.
-- The youngest are left for a moment, so that a batch that commits a little later than its time still comes in order.
-- 0 when there are none, or while another process is at it. Locks: one advisory lock until the commit.
CREATE OR REPLACE FUNCTION entries_fill(before timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    wanted_ids uuid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('account entries')) THEN
        RETURN 0;
    END IF;
    WITH chosen AS MATERIALIZED (
        SELECT queue_id FROM (
            SELECT queue_id, sum(transfers) OVER (ORDER BY at, queue_id) - transfers AS earlier
            FROM entry_queue WHERE at < before
        ) AS waiting
        WHERE earlier < most
    ), taken AS (
        DELETE FROM entry_queue WHERE queue_id IN (SELECT queue_id FROM chosen) RETURNING transfer_ids
    )
    SELECT array_agg(transfer_id) INTO wanted_ids FROM taken CROSS JOIN LATERAL unnest(transfer_ids) AS transfer_id;
    IF wanted_ids IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM entries_write(wanted_ids);
    RETURN cardinality(wanted_ids);
END
$$;

-- Makes all entries anew, for the owner of the schema: after a restore of single tables, or for a history that was not
-- posted (benchmarks). Nothing can be posted meanwhile.
CREATE OR REPLACE FUNCTION entries_rebuild() RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('account entries'));
    TRUNCATE entry_queue, account_entry, account_day;
    INSERT INTO account_entry (account_id, at, transfers, transfer_ids, debits_minor, credits_minor)
    SELECT account_id, at, count(*), array_agg(transfer_id),
           (sum(sum(debit_minor)) OVER past)::bigint, (sum(sum(credit_minor)) OVER past)::bigint
    FROM (
        SELECT debit_account_id AS account_id, at, transfer_id, amount_minor AS debit_minor, 0::bigint AS credit_minor
        FROM transfer WHERE phase IN ('posted', 'captured')
        UNION ALL
        SELECT credit_account_id, at, transfer_id, 0, amount_minor
        FROM transfer WHERE phase IN ('posted', 'captured')
    ) AS side
    GROUP BY account_id, at
    WINDOW past AS (PARTITION BY account_id ORDER BY at);
    INSERT INTO account_day (account_id, day, kind, counter_kind, debits_minor, credits_minor, transfers)
    SELECT side.account_id, (side.at AT TIME ZONE 'UTC')::date, side.kind, counter.kind,
           sum(side.debit_minor), sum(side.credit_minor), count(*)
    FROM (
        SELECT debit_account_id AS account_id, credit_account_id AS counter_id, at, kind, amount_minor AS debit_minor,
               0::bigint AS credit_minor
        FROM transfer WHERE phase IN ('posted', 'captured')
        UNION ALL
        SELECT credit_account_id, debit_account_id, at, kind, 0, amount_minor
        FROM transfer WHERE phase IN ('posted', 'captured')
    ) AS side
    JOIN account AS own ON own.account_id = side.account_id
    JOIN account AS counter ON counter.account_id = side.counter_id
    WHERE own.kind NOT IN ('seller_pending', 'seller_available', 'payouts_in_transit')
    GROUP BY 1, 2, 3, 4;
END
$$;

REVOKE ALL ON FUNCTION entry_note, entries_write, entries_fill, entries_rebuild FROM PUBLIC;
GRANT EXECUTE ON FUNCTION entries_fill TO coatcheck_app;
