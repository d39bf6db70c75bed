-- Payouts: money to sellers. A payout is an intent like a charge: committed with its operation and lease before anybody
-- calls the PSP. What it takes is moved out of the seller's available balance in that same commit, so no race can pay
-- out more than is there, and no payout ever makes that balance negative (hazards D8, D9).

-- The only ways from one state to another, as states.py has them; a test walks every pair through the database.
CREATE OR REPLACE FUNCTION payout_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (('PENDING', 'PAID'), ('PENDING', 'FAILED'), ('PENDING', 'RETURNED'), ('PAID', 'RETURNED'));
$$;

CREATE OR REPLACE FUNCTION payout_run_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (('WAITING', 'APPROVED'), ('WAITING', 'REJECTED'), ('APPROVED', 'FINISHED'));
$$;

-- Whether a PSP has paid a payout out of what it owes us, so that its settlement file has a line for it (payouts/booking.py).
-- What left our account at a bank is in no such file.
CREATE OR REPLACE FUNCTION paid_from_balance(wanted_payout uuid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM transfer AS t JOIN account AS a ON a.account_id = t.credit_account_id
                    WHERE t.transfer_id = derived_id('payout transfer', hex_of(wanted_payout), 'payout_paid')
                      AND a.kind = 'psp_receivable');
$$;

-- What a seller can be paid from an available account right now: posted, less what holds have reserved, less what he owes:
-- refunds and disputes may have taken his pending account below zero (hazard D9). That one is read and not locked: a refund
-- that commits a moment later is as one that comes after the payout.
CREATE OR REPLACE FUNCTION payable_of(wanted_account uuid) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce((
        SELECT a.credits_posted_minor - a.debits_posted_minor - a.debits_pending_minor + least(0, coalesce((
                   SELECT p.credits_posted_minor - p.debits_posted_minor FROM account AS p
                    WHERE p.shop_id = a.shop_id AND p.mode = a.mode AND p.currency = a.currency
                      AND p.name = regexp_replace(a.name, ':available$', ':pending')), 0))
          FROM account AS a WHERE a.account_id = wanted_account), 0);
$$;

-- Say where a seller's money goes. 'changed'; 'exists' (it goes there already). One that replaces another cools down.
-- Idempotent on the content. Locks: the destination.
CREATE OR REPLACE FUNCTION put_payout_destination(
    at timestamptz, wanted_shop uuid, wanted_mode text, seller text, wanted_currency text, new_provider text,
    new_token text, who text, cooldown interval, payee uuid, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    now_there payout_destination;
BEGIN
    INSERT INTO payout_destination AS d (shop_id, mode, seller_account, currency, provider, token, changed_by, changed_at, usable_from)
    VALUES (wanted_shop, wanted_mode, seller, wanted_currency, new_provider, new_token, who, at, at)
    ON CONFLICT (shop_id, mode, seller_account, currency) DO UPDATE
       SET provider = excluded.provider, token = excluded.token, changed_by = excluded.changed_by,
           changed_at = excluded.changed_at, usable_from = excluded.changed_at + cooldown, revision = d.revision + 1
     WHERE (d.provider, d.token) <> (excluded.provider, excluded.token)
 RETURNING d.* INTO now_there;
    IF now_there.token IS NULL THEN
        RETURN 'exists';
    END IF;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (payee, put_payout_destination.event_id, 'payout_destination.changed', wanted_shop, wanted_mode, at,
            json_build_object('seller_account', seller, 'currency', wanted_currency, 'provider', new_provider,
                              'token', new_token, 'by', who, 'usable_from', now_there.usable_from,
                              'revision', now_there.revision));
    RETURN 'changed';
END;
$$;

-- Say when a seller's money is paid out unasked; new_cron NULL: not any more. 'changed'; 'exists'.
-- Idempotent on the content. Locks: the schedule.
CREATE OR REPLACE FUNCTION put_payout_schedule(
    at timestamptz, wanted_shop uuid, wanted_mode text, seller text, wanted_currency text, new_cron text,
    new_threshold_minor bigint, new_next_at timestamptz, who text, payee uuid, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    new_revision integer;
BEGIN
    INSERT INTO payout_schedule AS s (shop_id, mode, seller_account, currency, cron, threshold_minor, changed_by, changed_at, next_at)
    VALUES (wanted_shop, wanted_mode, seller, wanted_currency, new_cron, new_threshold_minor, who, at, new_next_at)
    ON CONFLICT (shop_id, mode, seller_account, currency) DO UPDATE
       SET cron = excluded.cron, threshold_minor = excluded.threshold_minor, changed_by = excluded.changed_by,
           changed_at = excluded.changed_at, next_at = excluded.next_at, revision = s.revision + 1
     WHERE (s.cron, s.threshold_minor) IS DISTINCT FROM (excluded.cron, excluded.threshold_minor)
 RETURNING s.revision INTO new_revision;
    IF NOT FOUND THEN
        RETURN 'exists';
    END IF;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (payee, put_payout_schedule.event_id, 'payout_schedule.changed', wanted_shop, wanted_mode, at,
            json_build_object('seller_account', seller, 'currency', wanted_currency, 'cron', new_cron,
                              'threshold_minor', new_threshold_minor, 'next_at', new_next_at, 'by', who,
                              'revision', new_revision));
    RETURN 'changed';
END;
$$;

-- Take a payout out of the seller's available balance and make its operation, in one commit: 'requested', 'exists' (the
-- same key and content), 'key_reused', 'no_destination', 'cooling_down', 'nothing_available', 'too_much'. An amount NULL:
-- all that is there. takes_less: at most the amount, for a run was approved with it and refunds may have come since.
-- Idempotent on the payout's id, for ever. Locks: the destination (shared), then both accounts, in id order, as every
-- posting does: of any number of requests at once each sees what the one before has left.
CREATE OR REPLACE FUNCTION request_payout(
    at timestamptz, lease_holder uuid, lease_until timestamptz, new_payout_id uuid, wanted_shop uuid, wanted_mode text,
    seller text, wanted_currency text, wanted_minor bigint, takes_less boolean, available_id uuid, transit_id uuid,
    request_key text, digest bytea, run uuid, new_operation_id uuid, new_transfer_id uuid, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    d payout_destination;
    known payout;
    there_minor bigint;
    posted text;
BEGIN
    PERFORM refuse_while_recovering();
    SELECT * INTO d FROM payout_destination AS p
     WHERE p.shop_id = wanted_shop AND p.mode = wanted_mode AND p.seller_account = seller AND p.currency = wanted_currency
       FOR SHARE;
    PERFORM ledger_lock_accounts(ARRAY[available_id, transit_id]);
    SELECT * INTO known FROM payout AS p WHERE p.payout_id = new_payout_id;
    IF known.payout_id IS NOT NULL THEN
        RETURN CASE WHEN recognise_payout(at, new_payout_id, seller, wanted_currency, wanted_minor, digest, event_id)
                      OR known.request_digest = digest THEN 'exists' ELSE 'key_reused' END;
    END IF;
    IF d.token IS NULL THEN RETURN 'no_destination'; END IF;
    IF d.usable_from > at THEN RETURN 'cooling_down'; END IF;
    there_minor := payable_of(available_id);
    IF there_minor <= 0 THEN RETURN 'nothing_available'; END IF;
    wanted_minor := CASE WHEN takes_less THEN least(wanted_minor, there_minor) ELSE coalesce(wanted_minor, there_minor) END;
    IF wanted_minor > there_minor THEN RETURN 'too_much'; END IF;

    INSERT INTO payout (payout_id, shop_id, mode, seller_account, currency, amount_minor, provider, destination, key,
                        request_digest, run_id, status, created_at)
    VALUES (new_payout_id, wanted_shop, wanted_mode, seller, wanted_currency, wanted_minor, d.provider, d.token,
            request_key, digest, run, 'PENDING', at);
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency,
                           body, target_reference, status, attempt, first_sent_at, created_at)
    VALUES (new_operation_id, new_payout_id, new_payout_id, wanted_shop, wanted_mode, 'payout', d.provider, wanted_minor,
            wanted_currency, '', d.token, 'OPEN', 1, CASE WHEN lease_holder IS NOT NULL THEN at END, at);
    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    VALUES (new_operation_id, d.provider, 1, lease_holder, coalesce(lease_until, at));
    SELECT l.outcome INTO posted
      FROM ledger_post(ARRAY[new_transfer_id], ARRAY['payout'], NULL, NULL, ARRAY[available_id], ARRAY[transit_id],
                       ARRAY[wanted_minor], ARRAY[wanted_currency], ARRAY[new_payout_id], at) AS l;
    IF posted <> 'posted' THEN
        RAISE EXCEPTION 'the ledger refused a payout''s transfer: %', posted USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (new_payout_id, request_payout.event_id, 'payout.requested', wanted_shop, wanted_mode, at, json_build_object(
        'payout_id', new_payout_id, 'operation_id', new_operation_id, 'seller_account', seller,
        'amount_minor', wanted_minor, 'currency', wanted_currency, 'provider', d.provider, 'destination', d.token,
        'key', request_key, 'request_digest', encode(digest, 'hex'), 'run_id', run,
        'first_sent_at', CASE WHEN lease_holder IS NOT NULL THEN at END,
        'transfers', json_build_array(json_build_object(
            'transfer_id', new_transfer_id, 'kind', 'payout', 'debit_account_id', available_id,
            'credit_account_id', transit_id, 'amount_minor', wanted_minor, 'currency', wanted_currency))));
    RETURN 'requested';
END;
$$;

-- The second commit of payouts: a batch of the PSP's decisions becomes outcomes, statuses, transfers, balances and events.
-- Fenced by the lease, as apply_outcomes is. g_payout_status NULL: the payout says so already. t_ arrays: one element per
-- transfer, whose position names the operation (from 1). Returns one row per operation: applied | fenced.
-- Locks: the leases, the operations, the payouts, then the accounts in id order.
CREATE OR REPLACE FUNCTION apply_payout_outcomes(
    decided_at timestamptz, g_operation_id uuid[], g_attempt integer[], g_status text[], g_payout_id uuid[],
    g_payout_status text[], g_provider_reference text[], g_decline_code text[], g_shop_id uuid[], g_mode text[],
    g_event_id uuid[], g_event_kind text[], g_event_body text[],
    t_position integer[], t_transfer_id uuid[], t_kind text[], t_debit uuid[], t_credit uuid[], t_amount_minor bigint[],
    t_currency text[], t_subject_id uuid[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    won integer[];
    moved_operations integer;
    moved_payouts integer;
    refused text;
BEGIN
    WITH taken AS (
        DELETE FROM lease AS l
         USING unnest(g_operation_id, g_attempt) WITH ORDINALITY AS g (operation_id, attempt, n)
         WHERE l.operation_id = g.operation_id AND l.attempt = g.attempt
     RETURNING g.n
    )
    SELECT coalesce(array_agg(n), '{}') INTO won FROM taken;

    UPDATE operation AS o
       SET status = g.status, decided_at = apply_payout_outcomes.decided_at, cause = NULL, decline_code = g.decline_code,
           provider_reference = coalesce(g.provider_reference, o.provider_reference)
      FROM unnest(g_operation_id, g_status, g_provider_reference, g_decline_code)
           WITH ORDINALITY AS g (operation_id, status, provider_reference, decline_code, n)
     WHERE o.operation_id = g.operation_id AND g.n = ANY (won) AND operation_may_become(o.status, g.status);
    GET DIAGNOSTICS moved_operations = ROW_COUNT;

    UPDATE payout AS p
       SET status = g.status, decided_at = apply_payout_outcomes.decided_at, decline_code = g.decline_code,
           provider_reference = coalesce(g.provider_reference, p.provider_reference)
      FROM unnest(g_payout_id, g_payout_status, g_provider_reference, g_decline_code)
           WITH ORDINALITY AS g (payout_id, status, provider_reference, decline_code, n)
     WHERE p.payout_id = g.payout_id AND g.n = ANY (won) AND payout_may_become(p.status, g.status);
    GET DIAGNOSTICS moved_payouts = ROW_COUNT;
    IF moved_operations <> cardinality(won) OR moved_payouts <> (
        SELECT count(g.status) FROM unnest(g_payout_status) WITH ORDINALITY AS g (status, n) WHERE g.n = ANY (won)
    ) THEN
        RAISE EXCEPTION 'a decision would take a payout or operation a way that states do not allow'
            USING ERRCODE = 'check_violation';
    END IF;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.payout_id, g.event_id, g.kind, g.shop_id, g.mode, apply_payout_outcomes.decided_at, g.body::json
      FROM unnest(g_payout_id, g_event_id, g_event_kind, g_shop_id, g_mode, g_event_body)
           WITH ORDINALITY AS g (payout_id, event_id, kind, shop_id, mode, body, n)
     WHERE g.n = ANY (won);

    SELECT string_agg(DISTINCT posted.outcome, ', ') INTO refused
      FROM (SELECT array_agg(t.transfer_id ORDER BY t.n) AS ids, array_agg(t.kind ORDER BY t.n) AS kinds,
                   array_agg(t.debit ORDER BY t.n) AS debits, array_agg(t.credit ORDER BY t.n) AS credits,
                   array_agg(t.amount_minor ORDER BY t.n) AS amounts, array_agg(t.currency ORDER BY t.n) AS currencies,
                   array_agg(t.subject_id ORDER BY t.n) AS subjects
              FROM unnest(t_position, t_transfer_id, t_kind, t_debit, t_credit, t_amount_minor, t_currency, t_subject_id)
                   WITH ORDINALITY
                   AS t (position, transfer_id, kind, debit, credit, amount_minor, currency, subject_id, n)
             WHERE t.position = ANY (won)
            HAVING count(*) > 0) AS due
     CROSS JOIN LATERAL ledger_post(due.ids, due.kinds, NULL, NULL, due.debits, due.credits, due.amounts,
                                    due.currencies, due.subjects, apply_payout_outcomes.decided_at) AS posted
     WHERE posted.outcome <> 'posted';
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused a decision''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;

    -- Who comes again after a lost COMMIT answer finds its own decision booked: same attempt, same word.
    RETURN QUERY
    SELECT g.n::integer, CASE
               WHEN g.n = ANY (won) THEN 'applied'
               WHEN EXISTS (SELECT FROM operation AS o
                             WHERE o.operation_id = g.operation_id AND o.attempt = g.attempt AND o.status = g.status)
                   THEN 'applied'
               ELSE 'fenced' END
      FROM unnest(g_operation_id, g_attempt, g_status) WITH ORDINALITY AS g (operation_id, attempt, status, n);
END;
$$;

-- Plan a run: who is due by this schedule, has somewhere to be paid to and at least his threshold, and how much that is
-- in all. 'proposed' (as WAITING or APPROVED), or 'exists': the run was made before, by whoever; nothing is changed but
-- that its sellers are not due any more. Compared with the median of the runs before: `factor` times as much, or as
-- little, waits for a second person, and so does the first run, for nobody knows what is usual.
-- run_ids of the items come from the caller, who hashes: one per seller, in `sellers`, with the account to be paid from.
-- Idempotent on the run's id, for ever: the primary key is the arbiter.
CREATE OR REPLACE FUNCTION propose_payout_run(
    at timestamptz, new_run_id uuid, wanted_shop uuid, wanted_mode text, wanted_schedule text, wanted_currency text,
    wanted_period timestamptz, following timestamptz, sellers text[], payout_ids uuid[], available_ids uuid[],
    factor integer, history integer, who text, event_id uuid
) RETURNS TABLE (verdict text, status text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    usual bigint := (
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY before.total_minor)
          FROM (SELECT r.total_minor FROM payout_run AS r
                 WHERE r.shop_id = wanted_shop AND r.mode = wanted_mode AND r.schedule = wanted_schedule
                   AND r.currency = wanted_currency AND r.status IN ('APPROVED', 'FINISHED') AND r.total_minor > 0
                 ORDER BY r.period DESC LIMIT history) AS before);
    planned bigint;
    planned_items integer;
    to_do integer;
    new_status text;
BEGIN
    PERFORM refuse_while_recovering();
    INSERT INTO payout_run (run_id, shop_id, mode, schedule, currency, period, items, total_minor, usual_minor, status,
                            proposed_by, proposed_at)
    VALUES (new_run_id, wanted_shop, wanted_mode, wanted_schedule, wanted_currency, wanted_period, 0, 0, usual,
            'APPROVED', who, at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        -- Whoever became due after the run was planned is paid at the next time.
        WITH late AS (
            UPDATE payout_schedule AS s SET next_at = following
             WHERE s.shop_id = wanted_shop AND s.mode = wanted_mode AND s.cron = wanted_schedule
               AND s.currency = wanted_currency AND s.next_at <= wanted_period
         RETURNING s.seller_account
        )
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT new_run_id, time_ordered_id(propose_payout_run.at), 'payout_run.skipped', wanted_shop, wanted_mode,
               propose_payout_run.at,
               json_build_object('run_id', new_run_id, 'seller_account', l.seller_account, 'outcome', 'too_late',
                                 'next_at', following)
          FROM late AS l;
        RETURN QUERY SELECT 'exists', r.status FROM payout_run AS r WHERE r.run_id = new_run_id;
        RETURN;
    END IF;

    -- What was paid already and forgotten (a restore from a backup) is an item of it as it was paid, whatever is there now.
    INSERT INTO payout_run_item (run_id, seller_account, shop_id, mode, currency, period, payout_id, planned_minor, outcome)
    SELECT new_run_id, s.seller_account, s.shop_id, s.mode, s.currency, wanted_period, g.payout_id,
           coalesce(done.amount_minor, payable_of(g.available_id)), CASE WHEN done.payout_id IS NOT NULL THEN 'requested' END
      FROM unnest(sellers, payout_ids, available_ids) AS g (seller, payout_id, available_id)
      JOIN payout_schedule AS s
        ON s.shop_id = wanted_shop AND s.mode = wanted_mode AND s.seller_account = g.seller
       AND s.currency = wanted_currency AND s.cron = wanted_schedule AND s.next_at <= wanted_period
      LEFT JOIN payout_destination AS d
        ON d.shop_id = s.shop_id AND d.mode = s.mode AND d.seller_account = s.seller_account AND d.currency = s.currency
      LEFT JOIN payout AS done ON done.payout_id = g.payout_id
     WHERE done.payout_id IS NOT NULL
        OR d.usable_from <= propose_payout_run.at AND payable_of(g.available_id) >= s.threshold_minor
    ON CONFLICT DO NOTHING;
    UPDATE payout_schedule AS s SET next_at = following
     WHERE s.shop_id = wanted_shop AND s.mode = wanted_mode AND s.cron = wanted_schedule
       AND s.currency = wanted_currency AND s.next_at <= wanted_period AND s.seller_account = ANY (sellers);

    SELECT coalesce(sum(i.planned_minor), 0), count(*), count(*) FILTER (WHERE i.outcome IS NULL)
      INTO planned, planned_items, to_do
      FROM payout_run_item AS i WHERE i.run_id = new_run_id;
    new_status := CASE WHEN to_do = 0 THEN 'FINISHED'
                       WHEN usual IS NULL OR planned > usual::numeric * factor OR planned::numeric * factor < usual
                       THEN 'WAITING' ELSE 'APPROVED' END;
    UPDATE payout_run AS r
       SET items = planned_items, total_minor = planned, status = new_status,
           finished_at = CASE new_status WHEN 'FINISHED' THEN at END
     WHERE r.run_id = new_run_id;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT new_run_id, propose_payout_run.event_id, 'payout_run.proposed', wanted_shop, wanted_mode, propose_payout_run.at,
           json_build_object('run_id', new_run_id, 'schedule', wanted_schedule, 'currency', wanted_currency,
                             'period', wanted_period, 'following', following, 'sellers', to_json(sellers),
                             'total_minor', planned, 'usual_minor', usual, 'status', new_status, 'by', who,
                             'items', coalesce(json_agg(json_build_object(
                                 'seller_account', i.seller_account, 'payout_id', i.payout_id,
                                 'planned_minor', i.planned_minor) ORDER BY i.seller_account), '[]'))
      FROM payout_run_item AS i WHERE i.run_id = new_run_id;
    RETURN QUERY SELECT 'proposed', new_status;
END;
$$;

-- A second person lets a run that waits go, or stops it: 'done', 'exists' (this person said so before), 'unknown',
-- 'settled' (it does not wait any more), 'same_person'. Locks: the run.
CREATE OR REPLACE FUNCTION decide_payout_run(
    at timestamptz, wanted_run uuid, new_status text, who text, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    r payout_run;
BEGIN
    SELECT * INTO r FROM payout_run AS p WHERE p.run_id = wanted_run FOR UPDATE;
    IF r.run_id IS NULL OR new_status NOT IN ('APPROVED', 'REJECTED') THEN RETURN 'unknown'; END IF;
    IF r.decided_by = who AND (r.status = 'REJECTED') = (new_status = 'REJECTED') THEN RETURN 'exists'; END IF;
    IF NOT payout_run_may_become(r.status, new_status) THEN RETURN 'settled'; END IF;
    IF r.proposed_by = who THEN RETURN 'same_person'; END IF;
    UPDATE payout_run AS p SET status = new_status, decided_by = who, decided_at = at WHERE p.run_id = wanted_run;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (wanted_run, decide_payout_run.event_id, 'payout_run.' || lower(new_status), r.shop_id, r.mode, at,
            json_build_object('run_id', wanted_run, 'status', new_status, 'proposed_by', r.proposed_by, 'by', who));
    RETURN 'done';
END;
$$;

-- Ask for one item of an approved run: request_payout's word is written to the item in the same commit, so the item is
-- asked for once. 'skipped' where somebody else is at it, it was done, or the run may not go. Locks: the item, then as
-- request_payout.
CREATE OR REPLACE FUNCTION pay_run_item(
    at timestamptz, wanted_payout uuid, available_id uuid, transit_id uuid, request_key text, digest bytea,
    new_operation_id uuid, new_transfer_id uuid, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    i payout_run_item;
    verdict text;
BEGIN
    PERFORM refuse_while_recovering();
    SELECT item.* INTO i FROM payout_run_item AS item JOIN payout_run AS r ON r.run_id = item.run_id
     WHERE item.payout_id = wanted_payout AND item.outcome IS NULL AND r.status = 'APPROVED'
       FOR UPDATE OF item SKIP LOCKED;
    IF i.payout_id IS NULL THEN RETURN 'skipped'; END IF;
    verdict := request_payout(at, NULL, NULL, i.payout_id, i.shop_id, i.mode, i.seller_account, i.currency,
                              i.planned_minor, true, available_id, transit_id, request_key, digest, i.run_id,
                              new_operation_id, new_transfer_id, event_id);
    UPDATE payout_run_item AS item SET outcome = verdict WHERE item.payout_id = wanted_payout;
    IF verdict <> 'requested' THEN
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        VALUES (i.run_id, pay_run_item.event_id, 'payout_run.skipped', i.shop_id, i.mode, pay_run_item.at,
                json_build_object('run_id', i.run_id, 'payout_id', i.payout_id, 'seller_account', i.seller_account,
                                  'outcome', verdict));
    END IF;
    RETURN verdict;
END;
$$;

-- End the approved runs all of whose items were asked for; returns how many.
CREATE OR REPLACE FUNCTION finish_payout_runs(at timestamptz) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH finished AS (
        UPDATE payout_run AS r SET status = 'FINISHED', finished_at = finish_payout_runs.at
         WHERE r.status = 'APPROVED'
           AND NOT EXISTS (SELECT FROM payout_run_item AS i WHERE i.run_id = r.run_id AND i.outcome IS NULL)
     RETURNING r.*
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT f.run_id, time_ordered_id(finish_payout_runs.at), 'payout_run.finished', f.shop_id, f.mode,
               finish_payout_runs.at, json_build_object('run_id', f.run_id)
          FROM finished AS f
    )
    SELECT count(*)::integer FROM finished;
$$;

REVOKE ALL ON FUNCTION payable_of, put_payout_destination, put_payout_schedule, request_payout, apply_payout_outcomes,
    propose_payout_run, decide_payout_run, pay_run_item, finish_payout_runs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION put_payout_destination, put_payout_schedule, request_payout, apply_payout_outcomes,
    propose_payout_run, decide_payout_run, pay_run_item, finish_payout_runs TO coatcheck_app;
