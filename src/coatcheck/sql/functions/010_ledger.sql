-- The only way into the books. The application's role may read the ledger's tables and call ledger_post and
-- ledger_open_accounts; it cannot write a transfer, a hold or a counter by any other statement.
--
-- Arrays arrive as parameters whose length the planner cannot see, and a plan made while the tables were small would
-- be kept for ever. So ledger_post forbids what is only good for a few rows (loops in loops, scans of whole tables).

-- sum(bigint) goes through numeric; a batch whose sums could leave bigint is judged closely before this is used.
CREATE OR REPLACE AGGREGATE ledger_sum(bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0');

-- Locks the accounts of a batch in id order, so that two batches can never wait for each other (G4), and returns those
-- that exist, in that order. A statement of its own: what is read after it sees what the lock waited for (G2).
-- Large batches are sure to have accounts in common: the later one waits once, at the gate, before it looks at any
-- row, instead of finding each row changed under its eyes and judging it anew.
-- On a cluster, only this function differs.
CREATE OR REPLACE FUNCTION ledger_lock_accounts(wanted_ids uuid[]) RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(wanted_ids) > 512 THEN
        PERFORM pg_advisory_xact_lock(hashtext('ledger: large batches'));
    END IF;
    RETURN ARRAY(
        SELECT account_id FROM account WHERE account_id = ANY (wanted_ids) ORDER BY account_id FOR NO KEY UPDATE
    );
END
$$;

-- What each row is by itself, against its two accounts. Nothing of an account that is looked at here ever changes, so no
-- lock is needed, and other batches need not wait meanwhile.
CREATE OR REPLACE FUNCTION ledger_judge(
    debit_account_ids uuid[], credit_account_ids uuid[], amounts_minor bigint[], currencies text[],
    OUT outcomes text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    WITH book AS MATERIALIZED (
        SELECT account_id, shop_id, mode, currency
        FROM account
        WHERE account_id = ANY (debit_account_ids || credit_account_ids)
    )
    SELECT array_agg(CASE
               WHEN (amount_minor BETWEEN 1 AND 9007199254740991) IS NOT TRUE THEN 'invalid_amount'
               WHEN debit_account_id = credit_account_id THEN 'same_account'
               WHEN debit.account_id IS NULL OR credit.account_id IS NULL THEN 'unknown_account'
               WHEN (item.currency = debit.currency AND item.currency = credit.currency) IS NOT TRUE
               THEN 'currency_mismatch'
               WHEN debit.shop_id <> credit.shop_id OR debit.mode <> credit.mode THEN 'world_mismatch'
               ELSE 'posted'
           END ORDER BY item.position)
    INTO outcomes
    FROM (
        SELECT unnest(debit_account_ids) AS debit_account_id, unnest(credit_account_ids) AS credit_account_id,
               unnest(amounts_minor) AS amount_minor, unnest(currencies) AS currency,
               generate_series(1, cardinality(amounts_minor)) AS position
    ) AS item
    LEFT JOIN book AS debit ON debit.account_id = debit_account_id
    LEFT JOIN book AS credit ON credit.account_id = credit_account_id;
END
$$;

-- Whether some locked account has not got room for the sum of the whole batch, so that its rows must be looked at one
-- by one.
CREATE OR REPLACE FUNCTION ledger_needs_care(account_ids uuid[], amounts_minor bigint[]) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    whole_minor CONSTANT bigint := (
        SELECT least(sum(amount_minor), 9223372036854775807)
        FROM unnest(amounts_minor) AS amount_minor WHERE amount_minor BETWEEN 1 AND 9007199254740991
    );
BEGIN
    RETURN EXISTS (
        SELECT FROM account JOIN account_kind USING (kind)
        WHERE account_id = ANY (account_ids)
          AND (9223372036854775807 - whole_minor <= greatest(
                   debits_posted_minor, credits_posted_minor, debits_pending_minor, credits_pending_minor
               )
               OR NOT may_overdraw AND whole_minor > CASE normal_side
                   WHEN 'credit' THEN credits_posted_minor - debits_posted_minor - debits_pending_minor
                   ELSE debits_posted_minor - credits_posted_minor - credits_pending_minor
               END)
    );
END
$$;

-- The second look, for a batch in which rows may meet each other or the past. First the past: what is written already,
-- and the holds that rows want to end.
CREATE OR REPLACE FUNCTION ledger_judge_by_the_past(
    transfer_ids uuid[], kinds text[], phases text[], hold_ids uuid[], debit_account_ids uuid[],
    credit_account_ids uuid[], amounts_minor bigint[], currencies text[], subject_ids uuid[], INOUT outcomes text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT array_agg(CASE
               WHEN item.transfer_id IS NULL OR item.kind IS NULL OR item.subject_id IS NULL
                    OR (item.phase IN ('posted', 'held', 'captured', 'released')) IS NOT TRUE
                    OR item.phase IN ('posted', 'held') AND item.hold_id IS NOT NULL THEN 'malformed'
               WHEN ROW(item.kind, item.phase, item.hold_id, item.debit_account_id, item.credit_account_id,
                        item.amount_minor, item.currency, item.subject_id)
                    IS NOT DISTINCT FROM
                    ROW(written.kind, written.phase, written.hold_id, written.debit_account_id,
                        written.credit_account_id, written.amount_minor, written.currency, written.subject_id)
               THEN 'exists'
               WHEN written.transfer_id IS NOT NULL THEN 'exists_differently'
               WHEN item.outcome <> 'posted' OR item.phase IN ('posted', 'held') THEN item.outcome
               WHEN held.hold_id IS NULL THEN 'unknown_hold'
               WHEN held.debit_account_id <> item.debit_account_id
                    OR held.credit_account_id <> item.credit_account_id THEN 'hold_mismatch'
               ELSE 'posted'
           END ORDER BY item.position)
    INTO outcomes
    FROM (
        SELECT unnest(transfer_ids) AS transfer_id, unnest(kinds) AS kind, unnest(phases) AS phase,
               unnest(hold_ids) AS hold_id, unnest(debit_account_ids) AS debit_account_id,
               unnest(credit_account_ids) AS credit_account_id, unnest(amounts_minor) AS amount_minor,
               unnest(currencies) AS currency, unnest(subject_ids) AS subject_id, unnest(outcomes) AS outcome,
               generate_series(1, cardinality(outcomes)) AS position
    ) AS item
    LEFT JOIN (SELECT * FROM transfer WHERE transfer_id = ANY (transfer_ids)) AS written USING (transfer_id)
    LEFT JOIN (SELECT * FROM hold WHERE hold_id = ANY (hold_ids)) AS held ON held.hold_id = item.hold_id;
END
$$;

-- Then the room: every row pulls its amount from its hold's rest, from a balance that must not fall below zero, and
-- from its two counters' range. Prefix sums in array order count all candidates before a row, also those refused in the
-- end: never too generous, and exact for a row on its own.
CREATE OR REPLACE FUNCTION ledger_judge_by_room(
    first integer[], phases text[], hold_ids uuid[], debit_account_ids uuid[], credit_account_ids uuid[],
    amounts_minor bigint[], INOUT outcomes text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    WITH item AS MATERIALIZED (
        SELECT unnest(phases) AS phase, unnest(hold_ids) AS hold_id, unnest(debit_account_ids) AS debit_account_id,
               unnest(credit_account_ids) AS credit_account_id, unnest(amounts_minor) AS amount_minor,
               unnest(outcomes) AS outcome, unnest(first) AS first_position,
               generate_series(1, cardinality(outcomes)) AS position
    ), candidate AS (
        SELECT * FROM item WHERE position = first_position
    ), leg AS (
        SELECT position, phase, amount_minor, debit_account_id AS account_id, 'debit' AS side
        FROM candidate WHERE phase <> 'released'
        UNION ALL
        SELECT position, phase, amount_minor, credit_account_id, 'credit'
        FROM candidate WHERE phase <> 'released'
    ), book AS (
        SELECT account_id, 'debit' AS side, debits_posted_minor AS posted_minor, debits_pending_minor AS pending_minor,
               normal_side = 'credit' AND NOT may_overdraw AS has_floor,
               credits_posted_minor - debits_posted_minor - debits_pending_minor AS balance_minor
        FROM account JOIN account_kind USING (kind) WHERE account_id = ANY (debit_account_ids)
        UNION ALL
        SELECT account_id, 'credit', credits_posted_minor, credits_pending_minor,
               normal_side = 'debit' AND NOT may_overdraw,
               debits_posted_minor - credits_posted_minor - credits_pending_minor
        FROM account JOIN account_kind USING (kind) WHERE account_id = ANY (credit_account_ids)
    ), pull AS (
        SELECT position, 'hold_exceeded' AS fault, held.amount_minor - captured_minor - released_minor AS room_minor,
               sum(candidate.amount_minor) OVER (PARTITION BY hold_id ORDER BY position) AS taken_minor
        FROM candidate JOIN (SELECT * FROM hold WHERE hold_id = ANY (hold_ids)) AS held USING (hold_id)
        UNION ALL
        SELECT position, 'overdrawn', balance_minor,
               sum(amount_minor) OVER (PARTITION BY account_id, side ORDER BY position)
        FROM leg JOIN book USING (account_id, side) WHERE has_floor AND phase <> 'captured'
        UNION ALL
        SELECT position, 'overflow',
               9223372036854775807 - CASE phase WHEN 'held' THEN pending_minor ELSE posted_minor END,
               sum(amount_minor) OVER (PARTITION BY account_id, side, phase = 'held' ORDER BY position)
        FROM leg JOIN book USING (account_id, side)
    )
    SELECT array_agg(coalesce(short.fault, item.outcome) ORDER BY position) INTO outcomes
    FROM item
    LEFT JOIN (
        SELECT position, min(fault) AS fault FROM pull WHERE taken_minor > room_minor GROUP BY position
    ) AS short USING (position);
END
$$;

-- The second look as a whole. Of rows with one id the first candidate is judged for all; the others are compared with
-- it once it is posted, and share its refusal otherwise.
CREATE OR REPLACE FUNCTION ledger_judge_closely(
    transfer_ids uuid[], kinds text[], phases text[], hold_ids uuid[], debit_account_ids uuid[],
    credit_account_ids uuid[], amounts_minor bigint[], currencies text[], subject_ids uuid[], INOUT outcomes text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    first integer[];  -- by position: where the first candidate of the same id stands; NULL for what is no candidate
BEGIN
    outcomes := ledger_judge_by_the_past(transfer_ids, kinds, phases, hold_ids, debit_account_ids, credit_account_ids,
                                         amounts_minor, currencies, subject_ids, outcomes);

    SELECT array_agg(CASE outcome WHEN 'posted' THEN first_position END ORDER BY position) INTO first
    FROM (
        SELECT position, outcome, first_value(position) OVER twins AS first_position
        FROM (
            SELECT unnest(transfer_ids) AS transfer_id, unnest(outcomes) AS outcome,
                   generate_series(1, cardinality(outcomes)) AS position
        ) AS item
        WINDOW twins AS (PARTITION BY transfer_id, outcome ORDER BY position)
    ) AS ranked;

    outcomes := ledger_judge_by_room(first, phases, hold_ids, debit_account_ids, credit_account_ids, amounts_minor,
                                     outcomes);

    SELECT array_agg(CASE
               WHEN first[n] IS NULL OR first[n] = n OR outcomes[first[n]] <> 'posted'
               THEN outcomes[coalesce(first[n], n)]
               WHEN ROW(kinds[n], phases[n], hold_ids[n], debit_account_ids[n], credit_account_ids[n],
                        amounts_minor[n], currencies[n], subject_ids[n])
                    IS NOT DISTINCT FROM
                    ROW(kinds[first[n]], phases[first[n]], hold_ids[first[n]], debit_account_ids[first[n]],
                        credit_account_ids[first[n]], amounts_minor[first[n]], currencies[first[n]],
                        subject_ids[first[n]])
               THEN 'exists' ELSE 'exists_differently'
           END ORDER BY n)
    INTO outcomes
    FROM generate_series(1, cardinality(outcomes)) AS n;
END
$$;

-- Writes the transfers that were judged 'posted'.
CREATE OR REPLACE FUNCTION ledger_write_transfers(
    transfer_ids uuid[], kinds text[], phases text[], hold_ids uuid[], debit_account_ids uuid[],
    credit_account_ids uuid[], amounts_minor bigint[], currencies text[], subject_ids uuid[], at timestamptz,
    outcomes text[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO transfer (transfer_id, kind, phase, hold_id, debit_account_id, credit_account_id, amount_minor,
                          currency, subject_id, at)
    SELECT transfer_id, kind, phase, hold_id, debit_account_id, credit_account_id, amount_minor, currency, subject_id,
           ledger_write_transfers.at
    FROM (
        SELECT unnest(transfer_ids) AS transfer_id, unnest(kinds) AS kind, unnest(phases) AS phase,
               unnest(hold_ids) AS hold_id, unnest(debit_account_ids) AS debit_account_id,
               unnest(credit_account_ids) AS credit_account_id, unnest(amounts_minor) AS amount_minor,
               unnest(currencies) AS currency, unnest(subject_ids) AS subject_id, unnest(outcomes) AS outcome
    ) AS item
    WHERE outcome = 'posted';
END
$$;

-- Moves each locked account's counters once per batch, however many of its transfers touch it.
CREATE OR REPLACE FUNCTION ledger_write_counters(
    phases text[], debit_account_ids uuid[], credit_account_ids uuid[], amounts_minor bigint[], account_ids uuid[],
    outcomes text[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    WITH item AS MATERIALIZED (
        SELECT debit_account_id, credit_account_id,
               CASE WHEN phase IN ('posted', 'captured') THEN amount_minor ELSE 0 END AS posted,
               CASE phase WHEN 'posted' THEN 0 WHEN 'held' THEN amount_minor ELSE -amount_minor END AS pending
        FROM (
            SELECT unnest(debit_account_ids) AS debit_account_id, unnest(credit_account_ids) AS credit_account_id,
                   unnest(phases) AS phase, unnest(amounts_minor) AS amount_minor, unnest(outcomes) AS outcome
        ) AS every
        WHERE outcome = 'posted'
    ), movement AS (
        SELECT moved_id, ledger_sum(debit_posted) AS debit_posted, ledger_sum(credit_posted) AS credit_posted,
               ledger_sum(debit_pending) AS debit_pending, ledger_sum(credit_pending) AS credit_pending
        FROM (
            SELECT debit_account_id AS moved_id, posted AS debit_posted, 0::bigint AS credit_posted,
                   pending AS debit_pending, 0::bigint AS credit_pending FROM item
            UNION ALL
            SELECT credit_account_id, 0, posted, 0, pending FROM item
        ) AS leg
        GROUP BY moved_id
    )
    UPDATE account SET debits_posted_minor = debits_posted_minor + debit_posted,
                       credits_posted_minor = credits_posted_minor + credit_posted,
                       debits_pending_minor = debits_pending_minor + debit_pending,
                       credits_pending_minor = credits_pending_minor + credit_pending
    FROM movement
    WHERE account_id = moved_id AND account_id = ANY (account_ids);
END
$$;

-- A hold's row is guarded by the locks on its two accounts: nobody captures or releases it without holding them.
CREATE OR REPLACE FUNCTION ledger_write_holds(
    transfer_ids uuid[], phases text[], hold_ids uuid[], debit_account_ids uuid[], credit_account_ids uuid[],
    amounts_minor bigint[], currencies text[], outcomes text[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO hold (hold_id, debit_account_id, credit_account_id, currency, amount_minor)
    SELECT transfer_id, debit_account_id, credit_account_id, currency, amount_minor
    FROM (
        SELECT unnest(transfer_ids) AS transfer_id, unnest(phases) AS phase,
               unnest(debit_account_ids) AS debit_account_id, unnest(credit_account_ids) AS credit_account_id,
               unnest(amounts_minor) AS amount_minor, unnest(currencies) AS currency, unnest(outcomes) AS outcome
    ) AS item
    WHERE outcome = 'posted' AND phase = 'held';

    UPDATE hold SET captured_minor = captured_minor + captured, released_minor = released_minor + released
    FROM (
        SELECT ended_id, ledger_sum(CASE phase WHEN 'captured' THEN amount_minor ELSE 0 END) AS captured,
               ledger_sum(CASE phase WHEN 'released' THEN amount_minor ELSE 0 END) AS released
        FROM (
            SELECT unnest(hold_ids) AS ended_id, unnest(phases) AS phase, unnest(amounts_minor) AS amount_minor,
                   unnest(outcomes) AS outcome
        ) AS item
        WHERE outcome = 'posted' AND phase IN ('captured', 'released')
        GROUP BY ended_id
    ) AS ending
    WHERE hold_id = ended_id AND hold_id = ANY (hold_ids);
END
$$;

-- Posts a batch of transfers and says of each what became of it; docs/ledger.md explains every outcome. One bad row
-- never fails its neighbours. Idempotent on transfer_id. Locks the batch's accounts in id order until the commit.
-- phases NULL: all are 'posted'; hold_ids NULL: none ends a hold.
CREATE OR REPLACE FUNCTION ledger_post(
    transfer_ids uuid[], kinds text[], phases text[], hold_ids uuid[], debit_account_ids uuid[],
    credit_account_ids uuid[], amounts_minor bigint[], currencies text[], subject_ids uuid[], at timestamptz
) RETURNS TABLE ("position" integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_hashjoin = on SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    is_plain CONSTANT boolean := (phases IS NULL OR 'posted' = ALL (phases))
        AND (hold_ids IS NULL OR array_remove(hold_ids, NULL) = '{}')
        AND array_position(transfer_ids, NULL) IS NULL AND array_position(kinds, NULL) IS NULL
        AND array_position(subject_ids, NULL) IS NULL
        AND cardinality(transfer_ids) = (SELECT count(DISTINCT id) FROM unnest(transfer_ids) AS id);
    account_ids uuid[];
    outcomes text[];
    is_simple boolean;
BEGIN
    phases := coalesce(phases, array_fill('posted'::text, ARRAY[cardinality(transfer_ids)]));
    hold_ids := coalesce(hold_ids, array_fill(NULL::uuid, ARRAY[cardinality(transfer_ids)]));
    IF (cardinality(transfer_ids) = ALL (ARRAY[
        cardinality(kinds), cardinality(phases), cardinality(hold_ids), cardinality(debit_account_ids),
        cardinality(credit_account_ids), cardinality(amounts_minor), cardinality(currencies), cardinality(subject_ids)
    ])) IS NOT TRUE THEN
        RAISE EXCEPTION 'ledger_post needs arrays of one length' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    outcomes := ledger_judge(debit_account_ids, credit_account_ids, amounts_minor, currencies);
    is_simple := is_plain IS TRUE AND NOT EXISTS (SELECT FROM transfer WHERE transfer_id = ANY (transfer_ids));
    IF is_simple THEN
        -- Before the locks, for it is the longer half of the work; nobody sees it before the commit.
        PERFORM ledger_write_transfers(transfer_ids, kinds, phases, hold_ids, debit_account_ids, credit_account_ids,
                                       amounts_minor, currencies, subject_ids, at, outcomes);
    END IF;
    account_ids := ledger_lock_accounts(debit_account_ids || credit_account_ids);
    IF is_simple AND ledger_needs_care(account_ids, amounts_minor) THEN
        DELETE FROM transfer WHERE transfer_id = ANY (transfer_ids);
        is_simple := false;
    END IF;
    IF NOT is_simple THEN
        outcomes := ledger_judge_closely(transfer_ids, kinds, phases, hold_ids, debit_account_ids, credit_account_ids,
                                         amounts_minor, currencies, subject_ids, outcomes);
        PERFORM ledger_write_transfers(transfer_ids, kinds, phases, hold_ids, debit_account_ids, credit_account_ids,
                                       amounts_minor, currencies, subject_ids, at, outcomes);
        PERFORM ledger_write_holds(transfer_ids, phases, hold_ids, debit_account_ids, credit_account_ids,
                                   amounts_minor, currencies, outcomes);
    END IF;
    PERFORM ledger_write_counters(phases, debit_account_ids, credit_account_ids, amounts_minor, account_ids, outcomes);
    PERFORM entry_note(transfer_ids, phases, outcomes, at);
    RETURN QUERY SELECT generate_series(1, cardinality(outcomes)), unnest(outcomes);
END
$$;

-- Opens the accounts that are not open yet, with counters at zero, and returns the ids of those newly opened.
-- Idempotent on account_id, which is the hash of the natural key: the stored key is compared, never assumed.
CREATE OR REPLACE FUNCTION ledger_open_accounts(
    account_ids uuid[], shop_ids uuid[], modes text[], names text[], kinds text[], currencies text[], at timestamptz
) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
-- By primary key only, also where the plan was made while there were few accounts.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    INSERT INTO account (account_id, shop_id, mode, name, kind, currency, opened_at)
    SELECT DISTINCT ON (account_id) account_id, shop_id, mode, name, kind, currency, ledger_open_accounts.at
    FROM unnest(account_ids, shop_ids, modes, names, kinds, currencies)
         AS item (account_id, shop_id, mode, name, kind, currency)
    ORDER BY account_id
    ON CONFLICT (account_id) DO NOTHING
    RETURNING account_id;

    IF EXISTS (
        SELECT FROM unnest(account_ids, shop_ids, modes, names, kinds, currencies)
               AS item (account_id, shop_id, mode, name, kind, currency)
        JOIN account USING (account_id)
        WHERE (item.shop_id, item.mode, item.name, item.kind, item.currency)
              IS DISTINCT FROM (account.shop_id, account.mode, account.name, account.kind, account.currency)
    ) THEN
        RAISE EXCEPTION 'an account id stands for another account already' USING ERRCODE = 'unique_violation';
    END IF;
END
$$;

REVOKE ALL ON FUNCTION ledger_lock_accounts, ledger_judge, ledger_judge_by_the_past, ledger_judge_by_room,
    ledger_judge_closely, ledger_needs_care, ledger_write_transfers, ledger_write_counters, ledger_write_holds,
    ledger_post, ledger_open_accounts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_post, ledger_open_accounts TO coatcheck_app;
GRANT SELECT ON account, account_kind, transfer, hold TO coatcheck_app;
