-- From pending to available: what a settlement file has told of matures after its seller's hold period. docs/wallets.md says
-- how each number is made. The arithmetic of a wallet, whose pending account has these postings:
--
--     matured   the shares of charges that are due, ever
--     returned  credits that were no charge: refunds that came back, offsets (as of the last balance mark: never too much)
--     left      all debits: refunds, disputes, releases
--
--     may be released = matured + returned - left
--
-- So what is captured and not yet due stays in pending whole, and whatever was taken back is taken from what comes next.

-- Set a seller's terms, with the event; false when they were so already. Idempotent.
CREATE OR REPLACE FUNCTION set_seller_terms(
    at timestamptz, shop uuid, world text, seller text, hold_days integer, reserve_basis_points integer,
    reserve_days integer, who text, subject uuid
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    new_revision integer;
BEGIN
    INSERT INTO seller_terms AS t (shop_id, mode, seller_account, hold_days, reserve_basis_points, reserve_days, set_by,
                                   set_at)
    VALUES (shop, world, seller, set_seller_terms.hold_days, set_seller_terms.reserve_basis_points,
            set_seller_terms.reserve_days, who, set_seller_terms.at)
    ON CONFLICT ON CONSTRAINT seller_terms_pkey DO UPDATE
       SET hold_days = excluded.hold_days, reserve_basis_points = excluded.reserve_basis_points,
           reserve_days = excluded.reserve_days, set_by = excluded.set_by, set_at = excluded.set_at,
           revision = t.revision + 1
     WHERE (t.hold_days, t.reserve_basis_points, t.reserve_days)
           <> (excluded.hold_days, excluded.reserve_basis_points, excluded.reserve_days)
 RETURNING t.revision INTO new_revision;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (subject, time_ordered_id(set_seller_terms.at), 'seller.terms_set', shop, world, set_seller_terms.at,
            json_build_object('seller_account', seller, 'hold_days', set_seller_terms.hold_days,
                              'reserve_basis_points', set_seller_terms.reserve_basis_points,
                              'reserve_days', set_seller_terms.reserve_days, 'by', who, 'revision', new_revision));
    RETURN true;
END;
$$;

-- The seller's share of charges and captures, as their commits have posted it; nothing of those that are not approved.
-- A capture's share depends on the captures before it, so it is read from the event that tells of its transfers.
CREATE OR REPLACE FUNCTION shares_of(wanted uuid[]) RETURNS TABLE (operation_id uuid, share_minor bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT o.operation_id, p.amount_minor - p.commission_minor
      FROM operation AS o JOIN payment_order AS p ON p.order_id = o.order_id
     WHERE o.operation_id = ANY (wanted) AND o.kind = 'charge' AND o.status = 'APPROVED'
    UNION ALL
    SELECT o.operation_id, coalesce(told.share_minor, 0)
      FROM operation AS o
      LEFT JOIN (
           SELECT e.body ->> 'operation_id' AS operation_id, sum((t ->> 'amount_minor')::bigint)::bigint AS share_minor
             FROM (SELECT DISTINCT c.payment_id FROM operation AS c
                    WHERE c.operation_id = ANY (wanted) AND c.kind = 'capture') AS payment
             JOIN event AS e ON e.subject_id = payment.payment_id AND e.kind IN ('order.succeeded', 'order.captured')
            CROSS JOIN LATERAL json_array_elements(e.body -> 'transfers') AS t
            WHERE t ->> 'kind' = 'charge' AND t ->> 'phase' = 'captured'
            GROUP BY 1
      ) AS told ON told.operation_id = o.operation_id::text
     WHERE o.operation_id = ANY (wanted) AND o.kind = 'capture' AND o.status = 'APPROVED';
$$;

-- Make the wallets of these operations' sellers, with their accounts, where there are none yet.
CREATE OR REPLACE FUNCTION open_wallets(at timestamptz, wanted uuid[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH needed AS (
        SELECT DISTINCT p.shop_id, p.mode, p.seller_account, p.currency::text AS currency
          FROM operation AS o JOIN payment_order AS p ON p.order_id = o.order_id
         WHERE o.operation_id = ANY (wanted)
    ), named AS (
        SELECT n.*, a.place, a.name, a.kind,
               derived_id('account', hex_of(n.shop_id), n.mode, a.name, n.currency) AS account_id
          FROM needed AS n
         CROSS JOIN LATERAL (VALUES
               (1, 'seller:' || n.seller_account || ':pending', 'seller_pending'),
               (2, 'seller:' || n.seller_account || ':available', 'seller_available'),
               (3, 'seller:' || n.seller_account || ':reserve', 'seller_reserve')
         ) AS a (place, name, kind)
    ), made AS (
        INSERT INTO wallet (pending_id, available_id, reserve_id, shop_id, mode, seller_account, currency)
        SELECT (array_agg(n.account_id ORDER BY n.place))[1], (array_agg(n.account_id ORDER BY n.place))[2],
               (array_agg(n.account_id ORDER BY n.place))[3], n.shop_id, n.mode, n.seller_account, n.currency
          FROM named AS n
         GROUP BY n.shop_id, n.mode, n.seller_account, n.currency
        ON CONFLICT (pending_id) DO NOTHING
     RETURNING shop_id, mode, seller_account, currency
    ), unopened AS (
        SELECT n.* FROM named AS n JOIN made USING (shop_id, mode, seller_account, currency)
    ), opened AS (
        SELECT ledger_open_accounts(array_agg(u.account_id), array_agg(u.shop_id), array_agg(u.mode), array_agg(u.name),
                                    array_agg(u.kind), array_agg(u.currency), open_wallets.at) AS account_id
          FROM unopened AS u HAVING count(*) > 0
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT u.account_id, time_ordered_id(open_wallets.at), 'account.opened', u.shop_id, u.mode, open_wallets.at,
           json_build_object('name', u.name, 'kind', u.kind, 'currency', u.currency)
      FROM opened AS o JOIN unopened AS u ON u.account_id = o.account_id;
$$;

-- Rows of maturing as an event tells of them: all that they begin with.
CREATE OR REPLACE FUNCTION maturing_told(wanted uuid[]) RETURNS json
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT coalesce(json_agg(json_build_object(
               'operation_id', m.operation_id, 'pending_id', m.pending_id, 'available_id', w.available_id,
               'reserve_id', w.reserve_id, 'seller_account', w.seller_account, 'currency', w.currency,
               'amount_minor', m.amount_minor, 'settled_at', m.settled_at, 'due_at', m.due_at,
               'reserve_basis_points', m.reserve_basis_points, 'reserve_due_at', m.reserve_due_at
           ) ORDER BY m.operation_id), '[]')
      FROM maturing AS m JOIN wallet AS w ON w.pending_id = m.pending_id
     WHERE m.operation_id = ANY (wanted);
$$;

-- Read on in the oldest settlement file that is not read to its end: what it has claimed of our charges and captures begins
-- to mature, under the terms of now. Returns whether there was such a file. Idempotent on the operation: a file that is
-- issued again changes nothing. One process at a time; another one goes on with something else.
CREATE OR REPLACE FUNCTION note_settled(
    at timestamptz, most integer, usual_hold_days integer, usual_reserve_basis_points integer, usual_reserve_days integer
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    file record;
    upto integer;
    fresh uuid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('coatcheck maturing: settlement files', 0)) THEN
        RETURN false;
    END IF;
    SELECT f.file_id, f.shop_id, f.mode, f.received_at, coalesce(r.read_to, -1) AS read_to INTO file
      FROM settlement_file AS f LEFT JOIN settled_reading AS r ON r.file_id = f.file_id
     WHERE f.provider <> 'bank' AND r.is_done IS NOT TRUE
     ORDER BY f.received_at, f.file_id LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    upto := coalesce((SELECT max(n.line_no) FROM (
        SELECT l.line_no FROM settlement_line AS l
         WHERE l.file_id = file.file_id AND l.line_no > file.read_to ORDER BY l.line_no LIMIT most) AS n), file.read_to);
    fresh := ARRAY(
        SELECT s.operation_id
          FROM settlement_line AS l
          JOIN settled_record AS s ON s.operation_id = l.operation_id AND s.kind = 'charge'
                                  AND s.file_id = l.file_id AND s.line_no = l.line_no
         WHERE l.file_id = file.file_id AND l.line_no > file.read_to AND l.line_no <= upto AND l.kind = 'charge'
           AND NOT EXISTS (SELECT FROM maturing AS m WHERE m.operation_id = s.operation_id));
    PERFORM open_wallets(note_settled.at, fresh);

    INSERT INTO maturing (operation_id, pending_id, file_id, amount_minor, settled_at, due_at, reserve_basis_points,
                          reserve_due_at)
    SELECT o.operation_id, w.pending_id, file.file_id, s.share_minor, file.received_at,
           file.received_at + make_interval(hours => 24 * coalesce(t.hold_days, usual_hold_days)),
           coalesce(t.reserve_basis_points, usual_reserve_basis_points),
           file.received_at + make_interval(hours => 24 * (coalesce(t.hold_days, usual_hold_days)
                                                           + coalesce(t.reserve_days, usual_reserve_days)))
      FROM operation AS o
      JOIN payment_order AS p ON p.order_id = o.order_id
      JOIN wallet AS w ON w.pending_id = derived_id('account', hex_of(p.shop_id), p.mode,
                                                    'seller:' || p.seller_account || ':pending', p.currency::text)
      LEFT JOIN seller_terms AS t ON t.shop_id = p.shop_id AND t.mode = p.mode AND t.seller_account = p.seller_account
      LEFT JOIN shares_of(fresh) AS s ON s.operation_id = o.operation_id
     WHERE o.operation_id = ANY (fresh);

    INSERT INTO settled_reading AS r (file_id, read_to, is_done)
    VALUES (file.file_id, upto, NOT EXISTS (SELECT FROM settlement_line AS l
                                             WHERE l.file_id = file.file_id AND l.line_no > upto))
    ON CONFLICT (file_id) DO UPDATE SET read_to = excluded.read_to, is_done = excluded.is_done;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT file.file_id, time_ordered_id(note_settled.at), 'wallet.settled', file.shop_id, file.mode, note_settled.at,
           json_build_object('file_id', file.file_id, 'read_to', r.read_to, 'is_done', r.is_done,
                             'parts', maturing_told(fresh))
      FROM settled_reading AS r WHERE r.file_id = file.file_id;
    RETURN true;
END;
$$;

-- Complete what a file had told of before it was decided here. Returns how many were.
CREATE OR REPLACE FUNCTION complete_settled(at timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    decided uuid[];
BEGIN
    decided := ARRAY(
        SELECT m.operation_id FROM maturing AS m JOIN operation AS o ON o.operation_id = m.operation_id
         WHERE m.amount_minor IS NULL AND o.status = 'APPROVED'
         ORDER BY m.operation_id LIMIT most FOR UPDATE OF m);
    UPDATE maturing AS m SET amount_minor = s.share_minor
      FROM shares_of(decided) AS s WHERE m.operation_id = s.operation_id AND m.amount_minor IS NULL;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT f.file_id, time_ordered_id(complete_settled.at), 'wallet.settled', f.shop_id, f.mode, complete_settled.at,
           json_build_object('file_id', f.file_id, 'read_to', r.read_to, 'is_done', r.is_done,
                             'parts', maturing_told(told.ids))
      FROM (SELECT m.file_id, array_agg(m.operation_id) AS ids FROM maturing AS m
             WHERE m.operation_id = ANY (decided) GROUP BY m.file_id) AS told
      JOIN settlement_file AS f ON f.file_id = told.file_id
      JOIN settled_reading AS r ON r.file_id = told.file_id;
    RETURN cardinality(decided);
END;
$$;

-- What is due, oldest first: its time has come, a file still speaks for it, and no break about that line is open.
CREATE OR REPLACE FUNCTION due_parts(at timestamptz, most integer) RETURNS TABLE (operation_id uuid, pending_id uuid)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT m.operation_id, m.pending_id
      FROM maturing AS m
      JOIN settled_record AS s ON s.operation_id = m.operation_id AND s.kind = 'charge'
     WHERE m.matured_at IS NULL AND m.amount_minor IS NOT NULL AND m.due_at <= due_parts.at
       AND NOT EXISTS (SELECT FROM reconciliation_break AS k
                        WHERE k.file_id = s.file_id AND k.line_no = s.line_no AND k.closed_at IS NULL)
     ORDER BY m.due_at, m.operation_id LIMIT most;
$$;

-- Reserves whose time is over, oldest first.
CREATE OR REPLACE FUNCTION due_reserves(at timestamptz, most integer) RETURNS TABLE (operation_id uuid, pending_id uuid)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT m.operation_id, m.pending_id
      FROM maturing AS m
     WHERE m.reserved_minor > 0 AND m.reserve_ended_at IS NULL AND m.reserve_due_at <= due_reserves.at
     ORDER BY m.reserve_due_at, m.operation_id LIMIT most;
$$;

-- Wallets that can be moved though nothing of them is due: money came back, or something is owed that available can cover.
CREATE OR REPLACE FUNCTION unsettled_wallets(most integer) RETURNS TABLE (pending_id uuid)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT w.pending_id
      FROM wallet AS w
      JOIN account AS p ON p.account_id = w.pending_id
      JOIN account AS a ON a.account_id = w.available_id
      LEFT JOIN LATERAL (SELECT s.returned_minor FROM balance_snapshot AS s WHERE s.account_id = w.pending_id
                          ORDER BY s.at DESC LIMIT 1) AS s ON true
     WHERE least(w.matured_minor + coalesce(s.returned_minor, 0) - p.debits_posted_minor,
                 p.credits_posted_minor - p.debits_posted_minor) > 0
        OR least(p.debits_posted_minor - p.credits_posted_minor,
                 a.credits_posted_minor - a.debits_posted_minor - a.debits_pending_minor) > 0
     LIMIT most;
$$;

-- Spread what may be released over parts that have matured, in their order, and say what of each goes into the reserve. The
-- reserve is rounded down over all of them together, so the parts add up to it and no cent is made or lost (D13).
CREATE OR REPLACE FUNCTION spread_release(amounts bigint[], basis_points integer[], releasable bigint)
RETURNS TABLE (place integer, released_minor bigint, reserved_minor bigint)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH part AS (
        SELECT g.n, g.points, greatest(0, least(g.amount, releasable - (sum(g.amount) OVER (ORDER BY g.n) - g.amount)))
                              AS released
          FROM unnest(amounts, basis_points) WITH ORDINALITY AS g (amount, points, n)
    ), kept AS (
        SELECT p.n, p.released, div(sum(p.released * p.points) OVER (ORDER BY p.n), 10000) AS so_far FROM part AS p
    )
    SELECT k.n::integer, k.released::bigint, (k.so_far - coalesce(lag(k.so_far) OVER (ORDER BY k.n), 0))::bigint
      FROM kept AS k ORDER BY k.n;
$$;

-- Let what is due mature, end reserves whose time is over, and cover what sellers owe: per wallet in this order. A reserve
-- covers what is owed, the rest becomes available; then available covers what is still owed; then what may be released
-- leaves pending, a part of it for the reserve. Each wallet's moves are one turn with one event. Returns how many of each
-- kind were posted, and 'matured' parts; nothing when nothing was to be done.
-- Locks: the wallets in id order, then their accounts in id order; what is read afterwards is what the locks waited for.
CREATE OR REPLACE FUNCTION mature_wallets(at timestamptz, most_wallets integer, most_parts integer)
RETURNS TABLE (kind text, moved bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted uuid[];
    part_ids uuid[];
    lot_ids uuid[];
    w_ids uuid[]; w_matured bigint[]; w_lots bigint[]; w_covered bigint[]; w_clawed bigint[]; w_released bigint[];
    w_reserved bigint[];
    p_ids uuid[]; p_released bigint[]; p_reserved bigint[];
    t_ids uuid[]; t_kinds text[]; t_debits uuid[]; t_credits uuid[]; t_amounts bigint[]; t_currencies text[];
    t_wallets uuid[];
    refused text;
BEGIN
    wanted := ARRAY(
        SELECT x.pending_id FROM (
            SELECT d.pending_id FROM due_parts(mature_wallets.at, most_parts) AS d
            UNION SELECT d.pending_id FROM due_reserves(mature_wallets.at, most_parts) AS d
            UNION SELECT u.pending_id FROM unsettled_wallets(most_wallets) AS u
        ) AS x LIMIT most_wallets);
    IF wanted = '{}' THEN
        RETURN;
    END IF;
    PERFORM 1 FROM wallet AS w WHERE w.pending_id = ANY (wanted) ORDER BY w.pending_id FOR UPDATE;
    PERFORM ledger_lock_accounts(ARRAY(
        SELECT unnest(ARRAY[w.pending_id, w.available_id, w.reserve_id]) FROM wallet AS w WHERE w.pending_id = ANY (wanted)));
    part_ids := ARRAY(SELECT d.operation_id FROM due_parts(mature_wallets.at, most_parts) AS d
                       WHERE d.pending_id = ANY (wanted));
    lot_ids := ARRAY(SELECT d.operation_id FROM due_reserves(mature_wallets.at, most_parts) AS d
                      WHERE d.pending_id = ANY (wanted));

    WITH part AS MATERIALIZED (
        SELECT m.pending_id, count(*) AS parts, sum(m.amount_minor)::bigint AS minor,
               array_agg(m.operation_id ORDER BY m.due_at, m.operation_id) AS ids,
               array_agg(m.amount_minor ORDER BY m.due_at, m.operation_id) AS amounts,
               array_agg(m.reserve_basis_points ORDER BY m.due_at, m.operation_id) AS points
          FROM maturing AS m WHERE m.operation_id = ANY (part_ids) GROUP BY m.pending_id
    ), lot AS (
        SELECT m.pending_id, sum(m.reserved_minor)::bigint AS minor
          FROM maturing AS m WHERE m.operation_id = ANY (lot_ids) GROUP BY m.pending_id
    ), book AS (
        SELECT w.pending_id, coalesce(part.parts, 0) AS parts, coalesce(part.minor, 0) AS matured_minor,
               coalesce(lot.minor, 0) AS lots_minor,
               p.credits_posted_minor - p.debits_posted_minor AS pending_minor,
               a.credits_posted_minor - a.debits_posted_minor - a.debits_pending_minor AS available_minor,
               w.matured_minor + coalesce(part.minor, 0) + coalesce(s.returned_minor, 0) - p.debits_posted_minor
                   AS releasable_minor
          FROM wallet AS w
          JOIN account AS p ON p.account_id = w.pending_id
          JOIN account AS a ON a.account_id = w.available_id
          LEFT JOIN part ON part.pending_id = w.pending_id
          LEFT JOIN lot ON lot.pending_id = w.pending_id
          LEFT JOIN LATERAL (SELECT s.returned_minor FROM balance_snapshot AS s WHERE s.account_id = w.pending_id
                              ORDER BY s.at DESC LIMIT 1) AS s ON true
         WHERE w.pending_id = ANY (wanted)
    ), sized AS MATERIALIZED (
        SELECT b.*, least(b.lots_minor, greatest(0, -b.pending_minor)) AS covered_minor,
               greatest(0, least(b.available_minor, -b.pending_minor - b.lots_minor, 9007199254740991)) AS clawed_minor,
               greatest(0, least(b.releasable_minor, b.pending_minor, 9007199254740991)) AS released_minor
          FROM book AS b
    ), spread AS MATERIALIZED (
        SELECT s.pending_id, part.ids[r.place] AS operation_id, r.released_minor, r.reserved_minor
          FROM sized AS s
          JOIN part ON part.pending_id = s.pending_id
         CROSS JOIN LATERAL spread_release(part.amounts, part.points, s.released_minor) AS r
    ), turning AS (
        SELECT s.*, coalesce((SELECT sum(r.reserved_minor) FROM spread AS r WHERE r.pending_id = s.pending_id), 0)::bigint
                    AS reserved_minor
          FROM sized AS s
         WHERE s.parts > 0 OR s.lots_minor > 0 OR s.clawed_minor > 0 OR s.released_minor > 0
    )
    SELECT array_agg(t.pending_id), array_agg(t.matured_minor), array_agg(t.lots_minor), array_agg(t.covered_minor),
           array_agg(t.clawed_minor), array_agg(t.released_minor), array_agg(t.reserved_minor),
           (SELECT array_agg(r.operation_id ORDER BY r.operation_id) FROM spread AS r),
           (SELECT array_agg(r.released_minor ORDER BY r.operation_id) FROM spread AS r),
           (SELECT array_agg(r.reserved_minor ORDER BY r.operation_id) FROM spread AS r)
      INTO w_ids, w_matured, w_lots, w_covered, w_clawed, w_released, w_reserved, p_ids, p_released, p_reserved
      FROM turning AS t;
    IF w_ids IS NULL THEN
        RETURN;
    END IF;

    UPDATE maturing AS m SET matured_at = mature_wallets.at, released_minor = g.released, reserved_minor = g.reserved
      FROM unnest(p_ids, p_released, p_reserved) AS g (operation_id, released, reserved)
     WHERE m.operation_id = g.operation_id;
    UPDATE maturing AS m SET reserve_ended_at = mature_wallets.at WHERE m.operation_id = ANY (lot_ids);
    UPDATE wallet AS w SET turn = w.turn + 1, matured_minor = w.matured_minor + g.matured
      FROM unnest(w_ids, w_matured) AS g (pending_id, matured)
     WHERE w.pending_id = g.pending_id;

    SELECT array_agg(derived_id('wallet', hex_of(w.pending_id), w.turn::text, leg.name)),
           array_agg(leg.kind), array_agg(leg.debit), array_agg(leg.credit), array_agg(leg.amount),
           array_agg(w.currency), array_agg(w.pending_id)
      INTO t_ids, t_kinds, t_debits, t_credits, t_amounts, t_currencies, t_wallets
      FROM unnest(w_ids, w_lots, w_covered, w_clawed, w_released, w_reserved)
           AS g (pending_id, lots, covered, clawed, released, reserved)
      JOIN wallet AS w ON w.pending_id = g.pending_id
     CROSS JOIN LATERAL (VALUES
           ('reserve offset', 'offset', w.reserve_id, w.pending_id, g.covered),
           ('reserve release', 'reserve_release', w.reserve_id, w.available_id, g.lots - g.covered),
           ('offset', 'offset', w.available_id, w.pending_id, g.clawed),
           ('release', 'release', w.pending_id, w.available_id, g.released - g.reserved),
           ('reserve', 'reserve', w.pending_id, w.reserve_id, g.reserved)
     ) AS leg (name, kind, debit, credit, amount)
     WHERE leg.amount > 0;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT w.pending_id, time_ordered_id(mature_wallets.at),
           CASE WHEN g.clawed > 0 AND told.parts IS NULL AND g.lots = 0 THEN 'wallet.offset' ELSE 'wallet.released' END,
           w.shop_id, w.mode, mature_wallets.at,
           json_build_object(
               'seller_account', w.seller_account, 'currency', w.currency, 'turn', w.turn, 'matured_minor', g.matured,
               'parts', coalesce(told.parts, '[]'),
               'reserves_ended', coalesce((SELECT json_agg(m.operation_id ORDER BY m.operation_id) FROM maturing AS m
                                            WHERE m.operation_id = ANY (lot_ids) AND m.pending_id = w.pending_id), '[]'),
               'transfers', coalesce((
                   SELECT json_agg(json_build_object(
                              'transfer_id', t.id, 'kind', t.kind, 'debit_account_id', t.debit,
                              'credit_account_id', t.credit, 'amount_minor', t.amount, 'currency', t.currency))
                     FROM unnest(t_ids, t_kinds, t_debits, t_credits, t_amounts, t_currencies, t_wallets)
                          AS t (id, kind, debit, credit, amount, currency, pending_id)
                    WHERE t.pending_id = w.pending_id), '[]'))
      FROM unnest(w_ids, w_matured, w_lots, w_clawed) AS g (pending_id, matured, lots, clawed)
      JOIN wallet AS w ON w.pending_id = g.pending_id
      LEFT JOIN (
           SELECT m.pending_id, json_agg(json_build_object(
                      'operation_id', p.operation_id, 'released_minor', p.released, 'reserved_minor', p.reserved)
                      ORDER BY p.operation_id) AS parts
             FROM unnest(p_ids, p_released, p_reserved) AS p (operation_id, released, reserved)
             JOIN maturing AS m ON m.operation_id = p.operation_id
            GROUP BY m.pending_id
      ) AS told ON told.pending_id = w.pending_id;

    IF t_ids IS NOT NULL THEN
        SELECT string_agg(DISTINCT posted.outcome, ', ') INTO refused
          FROM ledger_post(t_ids, t_kinds, NULL, NULL, t_debits, t_credits, t_amounts, t_currencies, t_wallets,
                           mature_wallets.at) AS posted
         WHERE posted.outcome <> 'posted';
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused a wallet''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;
    RETURN QUERY
    SELECT t.kind, count(*) FROM unnest(t_kinds) AS t (kind) GROUP BY t.kind
    UNION ALL
    SELECT 'matured', coalesce(cardinality(p_ids), 0)::bigint;
END;
$$;

REVOKE ALL ON FUNCTION set_seller_terms, shares_of, open_wallets, maturing_told, note_settled,
    complete_settled, due_parts, due_reserves, unsettled_wallets, spread_release, mature_wallets FROM PUBLIC;
GRANT EXECUTE ON FUNCTION set_seller_terms, note_settled, complete_settled, mature_wallets TO coatcheck_app;
