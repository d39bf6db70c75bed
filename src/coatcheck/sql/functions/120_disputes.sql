-- Disputes. What a PSP says of one has two halves that come in any order and any number of times: how it stands, where only a
-- later word takes the place of an earlier one, and which money moved, where each movement is booked once, whatever the
-- status suggests. Both halves pass the order's row first, as every refund does (D3).

CREATE OR REPLACE FUNCTION dispute_id_of(shop_id uuid, mode text, provider text, provider_reference text) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT derived_id('dsp', hex_of(shop_id), mode, provider, provider_reference);
$$;

-- The transfers of movements: what was taken is debited to the seller and its fee to the platform, against what the PSP owes
-- us; what was given back goes the other way.
CREATE OR REPLACE FUNCTION dispute_transfers_of(movement_ids uuid[])
RETURNS TABLE (
    movement_id uuid, dispute_id uuid, shop_id uuid, mode text, currency text, transfer_id uuid, kind text,
    debit_name text, debit_kind text, debit_id uuid, credit_name text, credit_kind text, credit_id uuid, amount_minor bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT m.movement_id, d.dispute_id, d.shop_id, d.mode, m.currency::text,
           derived_id('dispute transfer', hex_of(m.movement_id), k.kind), k.kind, x.debit_name, x.debit_kind,
           derived_id('account', hex_of(d.shop_id), d.mode, x.debit_name, m.currency::text), x.credit_name, x.credit_kind,
           derived_id('account', hex_of(d.shop_id), d.mode, x.credit_name, m.currency::text), abs(l.taken_minor)
      FROM dispute_movement AS m
      JOIN dispute AS d ON d.dispute_id = m.dispute_id
      JOIN payment_order AS o ON o.order_id = d.order_id
     CROSS JOIN LATERAL (VALUES
           ('chargeback', -m.gross_minor, 'seller:' || o.seller_account || ':pending', 'seller_pending'),
           ('dispute_fee', m.fee_minor, 'platform:dispute_fees', 'platform_dispute_fees')
           ) AS l (kind, taken_minor, name, account_kind)
     CROSS JOIN LATERAL (SELECT l.kind || CASE WHEN l.taken_minor < 0 THEN '_reversed' ELSE '' END AS kind) AS k
     CROSS JOIN LATERAL (SELECT 'psp:' || d.provider || ':receivable' AS name) AS r
     CROSS JOIN LATERAL (SELECT
           CASE WHEN l.taken_minor > 0 THEN l.name ELSE r.name END AS debit_name,
           CASE WHEN l.taken_minor > 0 THEN l.account_kind ELSE 'psp_receivable' END AS debit_kind,
           CASE WHEN l.taken_minor > 0 THEN r.name ELSE l.name END AS credit_name,
           CASE WHEN l.taken_minor > 0 THEN 'psp_receivable' ELSE l.account_kind END AS credit_kind) AS x
     WHERE m.movement_id = ANY (movement_ids) AND l.taken_minor <> 0;
$$;

-- Book movements that were just written down, each with its event. `besides`: accounts that the caller will post to in this
-- same transaction; they are locked together with ours, in id order (G4).
CREATE OR REPLACE FUNCTION book_dispute_movements(at timestamptz, movement_ids uuid[], besides uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    a_ids uuid[]; a_shops uuid[]; a_modes text[]; a_names text[]; a_kinds text[]; a_currencies text[];
    t_ids uuid[]; t_kinds text[]; t_debits uuid[]; t_credits uuid[]; t_amounts bigint[]; t_currencies text[]; t_subjects uuid[];
    refused text;
BEGIN
    IF movement_ids = '{}' THEN
        RETURN;
    END IF;
    SELECT array_agg(a.id), array_agg(a.shop_id), array_agg(a.mode), array_agg(a.name), array_agg(a.kind), array_agg(a.currency)
      INTO a_ids, a_shops, a_modes, a_names, a_kinds, a_currencies
      FROM (SELECT t.debit_id AS id, t.shop_id, t.mode, t.debit_name AS name, t.debit_kind AS kind, t.currency
              FROM dispute_transfers_of(movement_ids) AS t
             UNION
            SELECT t.credit_id, t.shop_id, t.mode, t.credit_name, t.credit_kind, t.currency
              FROM dispute_transfers_of(movement_ids) AS t) AS a
     -- Only the missing ones: to open one that is there would wait for whoever changes it.
     WHERE NOT EXISTS (SELECT FROM account AS k WHERE k.account_id = a.id);
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.id, time_ordered_id(book_dispute_movements.at), 'account.opened', g.shop_id, g.mode, book_dispute_movements.at,
           json_build_object('name', g.name, 'kind', g.kind, 'currency', g.currency)
      FROM unnest(a_ids, a_shops, a_modes, a_names, a_kinds, a_currencies) AS g (id, shop_id, mode, name, kind, currency)
      JOIN ledger_open_accounts(a_ids, a_shops, a_modes, a_names, a_kinds, a_currencies, book_dispute_movements.at) AS new_id
        ON new_id = g.id;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT d.payment_id, time_ordered_id(book_dispute_movements.at),
           CASE WHEN m.is_taken THEN 'dispute.funds_withdrawn' ELSE 'dispute.funds_reinstated' END, d.shop_id, d.mode,
           book_dispute_movements.at,
           json_build_object('order_id', d.order_id, 'provider', d.provider, 'provider_reference', d.provider_reference,
                             'movement_id', m.movement_id, 'dispute_id', m.dispute_id, 'is_taken', m.is_taken,
                             'ordinal', m.ordinal, 'name', m.name, 'gross_minor', m.gross_minor, 'fee_minor', m.fee_minor,
                             'currency', m.currency, 'moved_at', m.moved_at, 'transfers', t.transfers)
      FROM dispute_movement AS m
      JOIN dispute AS d ON d.dispute_id = m.dispute_id
     CROSS JOIN LATERAL (
           SELECT json_agg(json_build_object(
                      'transfer_id', t.transfer_id, 'kind', t.kind, 'debit_account_id', t.debit_id,
                      'credit_account_id', t.credit_id, 'amount_minor', t.amount_minor, 'currency', t.currency,
                      'subject_id', t.dispute_id) ORDER BY t.kind) AS transfers
             FROM dispute_transfers_of(ARRAY[m.movement_id]) AS t) AS t
     WHERE m.movement_id = ANY (movement_ids);

    SELECT array_agg(t.transfer_id ORDER BY t.transfer_id), array_agg(t.kind ORDER BY t.transfer_id),
           array_agg(t.debit_id ORDER BY t.transfer_id), array_agg(t.credit_id ORDER BY t.transfer_id),
           array_agg(t.amount_minor ORDER BY t.transfer_id), array_agg(t.currency ORDER BY t.transfer_id),
           array_agg(t.dispute_id ORDER BY t.transfer_id)
      INTO t_ids, t_kinds, t_debits, t_credits, t_amounts, t_currencies, t_subjects
      FROM dispute_transfers_of(movement_ids) AS t;
    -- The ledger last: its account locks are the only ones another batch may wait for, so they are held shortest.
    PERFORM ledger_lock_accounts(t_debits || t_credits || besides);
    SELECT string_agg(DISTINCT posted.outcome, ', ') INTO refused
      FROM ledger_post(t_ids, t_kinds, NULL, NULL, t_debits, t_credits, t_amounts, t_currencies, t_subjects,
                       book_dispute_movements.at) AS posted
     WHERE posted.outcome NOT IN ('posted', 'exists');
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused a dispute''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;
END;
$$;

-- Write down that disputes have changed: each with its whole row, from which a replay makes it again.
CREATE OR REPLACE FUNCTION tell_of_disputes(at timestamptz, dispute_ids uuid[], kinds text[], told text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT d.payment_id, time_ordered_id(tell_of_disputes.at), g.kind, d.shop_id, d.mode, tell_of_disputes.at,
           json_build_object('dispute_id', d.dispute_id, 'order_id', d.order_id, 'provider', d.provider,
                             'provider_reference', d.provider_reference, 'amount_minor', d.amount_minor,
                             'currency', d.currency, 'reason', d.reason, 'status', d.status,
                             'evidence_due_at', d.evidence_due_at, 'word_no', d.word_no, 'opened_at', d.opened_at,
                             'changed_at', d.changed_at, 'revision', d.revision, 'type', g.told)
      FROM unnest(dispute_ids, kinds, told) AS g (dispute_id, kind, told)
      JOIN dispute AS d ON d.dispute_id = g.dispute_id;
$$;

-- Whether each order may be refunded follows its disputes: not while one is open or lost (D3). The caller holds the orders.
CREATE OR REPLACE FUNCTION follow_disputes(at timestamptz, order_ids uuid[], told text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH changed AS (
        UPDATE payment_order AS o SET is_disputed = f.is_frozen
          FROM (SELECT p.order_id, EXISTS (SELECT FROM dispute AS d
                                            WHERE d.order_id = p.order_id AND dispute_freezes(d.status)) AS is_frozen
                  FROM payment_order AS p WHERE p.order_id = ANY (order_ids)) AS f
         WHERE o.order_id = f.order_id AND o.is_disputed <> f.is_frozen
     RETURNING o.order_id, o.payment_id, o.shop_id, o.mode, o.is_disputed, o.refund_reserved_minor
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT c.payment_id, time_ordered_id(follow_disputes.at),
           CASE WHEN c.is_disputed THEN 'order.disputed' ELSE 'order.undisputed' END, c.shop_id, c.mode, follow_disputes.at,
           json_build_object('order_id', c.order_id, 'type', told, 'refund_reserved_minor', c.refund_reserved_minor)
      FROM changed AS c;
$$;

-- Open disputes are asked about from time to time, others not. `due_at` NULL: as it was, or in a day.
CREATE OR REPLACE FUNCTION watch_disputes(at timestamptz, dispute_ids uuid[], due timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO dispute_watch AS w (dispute_id, provider, due_at)
    SELECT d.dispute_id, d.provider, coalesce(due, watch_disputes.at + interval '1 day')
      FROM dispute AS d
     WHERE d.dispute_id = ANY (dispute_ids) AND d.status IN ('INQUIRY', 'NEEDS_RESPONSE', 'UNDER_REVIEW')
    ON CONFLICT (dispute_id) DO NOTHING;
    DELETE FROM dispute_watch AS w USING dispute AS d
     WHERE w.dispute_id = ANY (dispute_ids) AND d.dispute_id = w.dispute_id AND d.status IN ('WON', 'LOST', 'CLOSED');
$$;

-- Write movements down that the PSP names: one that only a file had told of gets its name, the others are new. Returns the
-- new ones. Idempotent on the name within its dispute. The caller holds the orders.
CREATE OR REPLACE FUNCTION take_named_movements(
    at timestamptz, dispute_ids uuid[], names text[], grosses bigint[], fees bigint[], currencies text[], moved timestamptz[]
) RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    new_ids uuid[];
BEGIN
    WITH fresh AS (
        SELECT DISTINCT ON (g.dispute_id, g.name) g.dispute_id, g.name,
               g.gross < 0 OR g.gross = 0 AND g.fee > 0 AS is_taken, g.moved_at
          FROM unnest(dispute_ids, names, grosses, fees, moved) AS g (dispute_id, name, gross, fee, moved_at)
         WHERE (g.gross <> 0 OR g.fee <> 0)
           AND NOT EXISTS (SELECT FROM dispute_movement AS m WHERE m.dispute_id = g.dispute_id AND m.name = g.name)
         ORDER BY g.dispute_id, g.name
    ), wanted AS (
        SELECT f.*, row_number() OVER (PARTITION BY f.dispute_id, f.is_taken ORDER BY f.moved_at, f.name) AS k FROM fresh AS f
    ), nameless AS (
        SELECT m.movement_id, m.dispute_id, m.is_taken,
               row_number() OVER (PARTITION BY m.dispute_id, m.is_taken ORDER BY m.ordinal) AS k
          FROM dispute_movement AS m WHERE m.dispute_id = ANY (dispute_ids) AND m.name IS NULL
    ), named AS (
        UPDATE dispute_movement AS m SET name = w.name
          FROM wanted AS w JOIN nameless AS n ON n.dispute_id = w.dispute_id AND n.is_taken = w.is_taken AND n.k = w.k
         WHERE m.movement_id = n.movement_id
     RETURNING m.movement_id, m.dispute_id, m.name
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT d.payment_id, time_ordered_id(take_named_movements.at), 'dispute.funds_named', d.shop_id, d.mode,
           take_named_movements.at,
           json_build_object('order_id', d.order_id, 'dispute_id', d.dispute_id, 'movement_id', n.movement_id, 'name', n.name)
      FROM named AS n JOIN dispute AS d ON d.dispute_id = n.dispute_id;

    WITH fresh AS (
        SELECT DISTINCT ON (g.dispute_id, g.name) g.*, g.gross < 0 OR g.gross = 0 AND g.fee > 0 AS is_taken
          FROM unnest(dispute_ids, names, grosses, fees, currencies, moved)
               AS g (dispute_id, name, gross, fee, currency, moved_at)
         WHERE (g.gross <> 0 OR g.fee <> 0)
           AND NOT EXISTS (SELECT FROM dispute_movement AS m WHERE m.dispute_id = g.dispute_id AND m.name = g.name)
         ORDER BY g.dispute_id, g.name
    ), numbered AS (
        SELECT f.*, row_number() OVER (PARTITION BY f.dispute_id, f.is_taken ORDER BY f.moved_at, f.name)
                    + (SELECT count(*) FROM dispute_movement AS m
                        WHERE m.dispute_id = f.dispute_id AND m.is_taken = f.is_taken) AS ordinal
          FROM fresh AS f
    ), written AS (
        INSERT INTO dispute_movement AS m (movement_id, dispute_id, is_taken, ordinal, name, gross_minor, fee_minor, currency,
                                           moved_at, booked_at)
        SELECT derived_id('dispute movement', hex_of(n.dispute_id), n.is_taken::text, n.ordinal::text), n.dispute_id,
               n.is_taken, n.ordinal, n.name, n.gross, n.fee, n.currency, n.moved_at, take_named_movements.at
          FROM numbered AS n
     RETURNING m.movement_id
    )
    SELECT coalesce(array_agg(w.movement_id), '{}') INTO new_ids FROM written AS w;
    RETURN new_ids;
END;
$$;

-- What PSPs say of disputes. n_ arrays have one element per word, m_ arrays one per movement of money, whose m_position names
-- the word (from 1). Returns one row per word:
--   applied       the dispute was opened or has changed, or money was booked
--   no_effect     all of it was known, or the word is older than the last one
--   refused       it is about another charge or order, or no way that states allow; nothing of it was taken
--   not_captured  nothing of the order was captured here: it cannot be booked yet
-- Idempotent; any order of words ends the same way. Locks: the orders, in id order; accounts.
CREATE OR REPLACE FUNCTION apply_dispute_news(
    at timestamptz, n_order_id uuid[], n_provider_reference text[], n_charge_reference text[], n_status text[],
    n_reason text[], n_amount_minor bigint[], n_currency text[], n_evidence_due_at timestamptz[], n_word_no bigint[],
    n_told text[], m_position integer[], m_name text[], m_gross_minor bigint[], m_fee_minor bigint[], m_currency text[],
    m_moved_at timestamptz[]
) RETURNS TABLE (place integer, outcome text, dispute_id uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    n_dispute_id uuid[];
    verdicts text[];
    opened_ids uuid[];
    changed_ids uuid[];
    changes text[];        -- the event of each that has changed
    paid_ids uuid[];       -- disputes for which money was booked now
    movement_ids uuid[];
BEGIN
    PERFORM 1 FROM payment_order AS o WHERE o.order_id = ANY (n_order_id) ORDER BY o.order_id FOR UPDATE;

    SELECT array_agg(dispute_id_of(o.shop_id, o.mode, o.provider, g.provider_reference) ORDER BY g.n)
      INTO n_dispute_id
      FROM unnest(n_order_id, n_provider_reference) WITH ORDINALITY AS g (order_id, provider_reference, n)
      JOIN payment_order AS o ON o.order_id = g.order_id;
    SELECT array_agg(CASE
               WHEN d.order_id <> g.order_id OR g.charge_reference <> o.provider_reference THEN 'refused'
               WHEN o.captured_minor = 0 THEN 'not_captured'
               WHEN g.word_no > d.word_no AND d.status <> g.status AND NOT dispute_may_become(d.status, g.status) THEN 'refused'
               ELSE 'no_effect' END ORDER BY g.n)
      INTO verdicts
      FROM unnest(n_order_id, n_dispute_id, n_charge_reference, n_status, n_word_no)
           WITH ORDINALITY AS g (order_id, dispute_id, charge_reference, status, word_no, n)
      JOIN payment_order AS o ON o.order_id = g.order_id
      LEFT JOIN dispute AS d ON d.dispute_id = g.dispute_id;

    -- 1. How they stand: the first word opens a dispute, a later one takes the place of an earlier one.
    WITH opened AS (
        INSERT INTO dispute AS d (dispute_id, order_id, payment_id, shop_id, mode, provider, provider_reference, amount_minor,
                                  currency, reason, status, evidence_due_at, word_no, opened_at, changed_at)
        SELECT DISTINCT ON (g.dispute_id) g.dispute_id, o.order_id, o.payment_id, o.shop_id, o.mode, o.provider,
               g.provider_reference, g.amount_minor, g.currency, g.reason, g.status, g.evidence_due_at, g.word_no,
               apply_dispute_news.at, apply_dispute_news.at
          FROM unnest(n_order_id, n_dispute_id, n_provider_reference, n_amount_minor, n_currency, n_reason, n_status,
                      n_evidence_due_at, n_word_no, verdicts)
               WITH ORDINALITY AS g (order_id, dispute_id, provider_reference, amount_minor, currency, reason, status,
                                     evidence_due_at, word_no, verdict, n)
          JOIN payment_order AS o ON o.order_id = g.order_id
         WHERE g.verdict = 'no_effect'
         ORDER BY g.dispute_id, g.word_no DESC, g.n
        ON CONFLICT DO NOTHING
     RETURNING d.dispute_id
    )
    SELECT coalesce(array_agg(o.dispute_id), '{}') INTO opened_ids FROM opened AS o;

    WITH newest AS (
        SELECT DISTINCT ON (g.dispute_id) g.*
          FROM unnest(n_dispute_id, n_order_id, n_amount_minor, n_currency, n_reason, n_status, n_evidence_due_at, n_word_no,
                      verdicts)
               WITH ORDINALITY AS g (dispute_id, order_id, amount_minor, currency, reason, status, evidence_due_at, word_no,
                                     verdict, n)
         WHERE g.verdict = 'no_effect'
         ORDER BY g.dispute_id, g.word_no DESC, g.n
    ), changed AS (
        UPDATE dispute AS d
           SET amount_minor = g.amount_minor, currency = g.currency, reason = coalesce(g.reason, d.reason), status = g.status,
               evidence_due_at = g.evidence_due_at, word_no = g.word_no,
               changed_at = apply_dispute_news.at, revision = d.revision + 1
          FROM newest AS g JOIN dispute AS b ON b.dispute_id = g.dispute_id
         WHERE d.dispute_id = g.dispute_id AND d.order_id = g.order_id
           AND (d.word_no IS NULL OR d.word_no < g.word_no)
           AND (d.status = g.status OR d.word_no IS NULL OR dispute_may_become(d.status, g.status))
     RETURNING d.dispute_id, b.status AS before, d.status AS after
    ), told AS (
        SELECT array_agg(c.dispute_id) AS ids,
               array_agg(CASE WHEN c.after = c.before THEN 'dispute.updated'
                              WHEN c.after IN ('WON', 'LOST', 'CLOSED') THEN 'dispute.' || lower(c.after)
                              WHEN c.before IN ('WON', 'LOST', 'CLOSED') THEN 'dispute.reopened'
                              ELSE 'dispute.updated' END) AS kinds
          FROM changed AS c
    )
    SELECT coalesce(t.ids, '{}'), t.kinds INTO changed_ids, changes FROM told AS t;
    PERFORM tell_of_disputes(apply_dispute_news.at, changed_ids, changes,
                             ARRAY(SELECT (SELECT max(g.told) FROM unnest(n_dispute_id, n_told) AS g (dispute_id, told)
                                            WHERE g.dispute_id = c.id)
                                     FROM unnest(changed_ids) WITH ORDINALITY AS c (id, n) ORDER BY c.n));
    PERFORM tell_of_disputes(apply_dispute_news.at, opened_ids,
                             array_fill('dispute.opened'::text, ARRAY[cardinality(opened_ids)]),
                             ARRAY(SELECT (SELECT max(g.told) FROM unnest(n_dispute_id, n_told) AS g (dispute_id, told)
                                            WHERE g.dispute_id = c.id)
                                     FROM unnest(opened_ids) WITH ORDINALITY AS c (id, n) ORDER BY c.n));

    -- 2. Which money moved, whatever the status suggests.
    movement_ids := (
        SELECT take_named_movements(apply_dispute_news.at, array_agg(n_dispute_id[g.position]), array_agg(g.name),
                                    array_agg(g.gross), array_agg(g.fee), array_agg(g.currency), array_agg(g.moved_at))
          FROM unnest(m_position, m_name, m_gross_minor, m_fee_minor, m_currency, m_moved_at)
               AS g (position, name, gross, fee, currency, moved_at)
         WHERE verdicts[g.position] = 'no_effect');
    movement_ids := coalesce(movement_ids, '{}');
    paid_ids := ARRAY(SELECT m.dispute_id FROM dispute_movement AS m WHERE m.movement_id = ANY (movement_ids));

    -- 3. What follows from it.
    PERFORM follow_disputes(apply_dispute_news.at, n_order_id, n_told[1]);
    PERFORM watch_disputes(apply_dispute_news.at, n_dispute_id, NULL);
    PERFORM book_dispute_movements(apply_dispute_news.at, movement_ids, '{}');
    RETURN QUERY
    SELECT g.n::integer,
           CASE WHEN g.verdict = 'no_effect' AND g.dispute_id = ANY (opened_ids || changed_ids || paid_ids) THEN 'applied'
                ELSE g.verdict END, g.dispute_id
      FROM unnest(n_dispute_id, verdicts) WITH ORDINALITY AS g (dispute_id, verdict, n);
END;
$$;

-- Hold the chargeback lines of a file that was just compared against disputes: each speaks for one movement of money, or
-- tells of one that nobody had told of. Their breaks, opened a moment ago in this same transaction, go; what stays is what
-- names no charge of ours, or differs. Locks: the orders, in id order; accounts.
CREATE OR REPLACE FUNCTION match_dispute_lines(at timestamptz, new_file_id uuid, shop uuid, world text, psp text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    released uuid[];
    opened_ids uuid[];
    movement_ids uuid[];
    touched uuid[];
BEGIN
    -- A batch that is issued again speaks for its movements in the place of its earlier version.
    WITH gone AS (
        DELETE FROM settled_movement AS s
         USING settlement_batch AS b, settlement_line AS l
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT DISTINCT i.batch FROM incoming_line AS i)
           AND l.file_id = b.file_id AND l.batch = b.batch AND s.file_id = l.file_id AND s.line_no = l.line_no
     RETURNING s.movement_id
    )
    SELECT coalesce(array_agg(g.movement_id), '{}') INTO released FROM gone AS g;

    -- 1. Whose charge it is: by our reference first, then by the PSP's id of the charge; never by the amount alone.
    CREATE TEMP TABLE dispute_line ON COMMIT DROP AS
    SELECT i.line_no, i.batch, i.provider_reference AS name, i.occurred_at, i.currency, i.gross_minor, i.fee_minor,
           i.gross_minor < 0 AS is_taken, i.charge_reference, o.order_id, NULL::uuid AS dispute_id, NULL::uuid AS movement_id,
           NULL::text AS verdict
      FROM incoming_line AS i
      LEFT JOIN operation AS o ON o.operation_id = i.operation_id AND o.shop_id = shop AND o.mode = world AND o.provider = psp
           AND o.kind IN ('charge', 'authorize', 'capture')
     WHERE i.kind IN ('chargeback', 'chargeback_reversed') AND i.gross_minor <> 0 AND i.provider_reference IS NOT NULL;
    IF NOT EXISTS (SELECT FROM dispute_line) AND released = '{}' THEN
        RETURN;
    END IF;
    UPDATE dispute_line AS l SET order_id = o.order_id
      FROM operation AS o
     WHERE l.order_id IS NULL AND o.provider_reference = l.charge_reference AND o.shop_id = shop AND o.mode = world
       AND o.provider = psp AND o.kind IN ('charge', 'authorize', 'capture');
    PERFORM 1 FROM payment_order AS o
      WHERE o.order_id IN (SELECT l.order_id FROM dispute_line AS l) ORDER BY o.order_id FOR UPDATE;
    DELETE FROM dispute_line AS l
     WHERE NOT EXISTS (SELECT FROM payment_order AS o WHERE o.order_id = l.order_id AND o.captured_minor > 0);

    -- 2. Which dispute it is: by the PSP's own id. Some PSPs give each movement an id of its own: then the one dispute of
    --    the order that waits for just this money.
    UPDATE dispute_line AS l SET dispute_id = dispute_id_of(shop, world, psp, l.name);
    UPDATE dispute_line AS l SET dispute_id = f.dispute_id
      FROM (SELECT i.line_no, min(d.dispute_id::text)::uuid AS dispute_id
              FROM dispute_line AS i
              JOIN dispute AS d ON d.order_id = i.order_id
             WHERE NOT EXISTS (SELECT FROM dispute AS own WHERE own.dispute_id = i.dispute_id)
               AND (EXISTS (SELECT FROM dispute_movement AS m
                             WHERE m.dispute_id = d.dispute_id AND m.gross_minor = i.gross_minor AND m.currency = i.currency
                               AND NOT EXISTS (SELECT FROM settled_movement AS s WHERE s.movement_id = m.movement_id))
                    OR NOT i.is_taken AND i.gross_minor = (
                        SELECT -sum(m.gross_minor) FROM dispute_movement AS m
                         WHERE m.dispute_id = d.dispute_id AND m.currency = i.currency))
             GROUP BY i.line_no HAVING count(*) = 1) AS f
     WHERE l.line_no = f.line_no;
    UPDATE dispute_line AS l SET verdict = 'status'
     WHERE EXISTS (SELECT FROM dispute AS d WHERE d.dispute_id = l.dispute_id AND d.order_id <> l.order_id);

    -- 3. The same money told again is a duplicate; a second chargeback of a dispute has a time of its own.
    UPDATE dispute_line AS l SET verdict = 'duplicate_line'
     WHERE l.verdict IS NULL
       AND (EXISTS (SELECT FROM settled_movement AS s JOIN dispute_movement AS m ON m.movement_id = s.movement_id
                     WHERE m.dispute_id = l.dispute_id AND m.is_taken = l.is_taken AND s.occurred_at = l.occurred_at)
            OR EXISTS (SELECT FROM dispute_line AS e
                        WHERE e.dispute_id = l.dispute_id AND e.is_taken = l.is_taken AND e.occurred_at = l.occurred_at
                          AND e.line_no < l.line_no));

    -- 4. Lines and movements in their order, one for one.
    UPDATE dispute_line AS l SET movement_id = p.movement_id
      FROM (SELECT i.line_no, w.movement_id
              FROM (SELECT e.line_no, e.dispute_id, e.is_taken,
                           row_number() OVER (PARTITION BY e.dispute_id, e.is_taken ORDER BY e.occurred_at, e.line_no) AS k
                      FROM dispute_line AS e WHERE e.verdict IS NULL) AS i
              JOIN (SELECT m.movement_id, m.dispute_id, m.is_taken,
                           row_number() OVER (PARTITION BY m.dispute_id, m.is_taken ORDER BY m.moved_at, m.ordinal) AS k
                      FROM dispute_movement AS m
                     WHERE m.dispute_id IN (SELECT e.dispute_id FROM dispute_line AS e)
                       AND NOT EXISTS (SELECT FROM settled_movement AS s WHERE s.movement_id = m.movement_id)) AS w
                ON w.dispute_id = i.dispute_id AND w.is_taken = i.is_taken AND w.k = i.k) AS p
     WHERE l.line_no = p.line_no;
    UPDATE dispute_line AS l
       SET verdict = CASE WHEN m.currency <> l.currency THEN 'currency'
                          WHEN m.gross_minor <> l.gross_minor THEN 'amount'
                          ELSE 'matched' END
      FROM dispute_movement AS m WHERE m.movement_id = l.movement_id;

    -- 5. What nobody had told of. Only the money is known: taken it waits for the PSP's word, given back it is over.
    WITH opened AS (
        INSERT INTO dispute AS d (dispute_id, order_id, payment_id, shop_id, mode, provider, provider_reference, amount_minor,
                                  currency, status, opened_at, changed_at)
        SELECT DISTINCT ON (l.dispute_id) l.dispute_id, o.order_id, o.payment_id, o.shop_id, o.mode, psp, l.name,
               abs(l.gross_minor), l.currency, 'NEEDS_RESPONSE', match_dispute_lines.at, match_dispute_lines.at
          FROM dispute_line AS l JOIN payment_order AS o ON o.order_id = l.order_id
         WHERE l.verdict IS NULL
         ORDER BY l.dispute_id, l.line_no
        ON CONFLICT DO NOTHING
     RETURNING d.dispute_id
    )
    SELECT coalesce(array_agg(o.dispute_id), '{}') INTO opened_ids FROM opened AS o;
    UPDATE dispute_line AS l
       SET movement_id = derived_id('dispute movement', hex_of(n.dispute_id), n.is_taken::text, n.ordinal::text)
      FROM (SELECT e.line_no, e.dispute_id, e.is_taken,
                   row_number() OVER (PARTITION BY e.dispute_id, e.is_taken ORDER BY e.occurred_at, e.line_no)
                   + (SELECT count(*) FROM dispute_movement AS m
                       WHERE m.dispute_id = e.dispute_id AND m.is_taken = e.is_taken) AS ordinal
              FROM dispute_line AS e WHERE e.verdict IS NULL) AS n
     WHERE l.line_no = n.line_no;
    WITH written AS (
        INSERT INTO dispute_movement AS m (movement_id, dispute_id, is_taken, ordinal, gross_minor, fee_minor, currency,
                                           moved_at, booked_at)
        SELECT l.movement_id, l.dispute_id, l.is_taken,
               row_number() OVER (PARTITION BY l.dispute_id, l.is_taken ORDER BY l.occurred_at, l.line_no)
               + (SELECT count(*) FROM dispute_movement AS k WHERE k.dispute_id = l.dispute_id AND k.is_taken = l.is_taken),
               l.gross_minor, l.fee_minor, l.currency, l.occurred_at, match_dispute_lines.at
          FROM dispute_line AS l WHERE l.verdict IS NULL
     RETURNING m.movement_id
    )
    SELECT coalesce(array_agg(w.movement_id), '{}') INTO movement_ids FROM written AS w;
    UPDATE dispute_line AS l SET verdict = 'matched' WHERE l.verdict IS NULL;

    touched := ARRAY(SELECT DISTINCT l.dispute_id FROM dispute_line AS l WHERE l.verdict IN ('matched', 'amount'));
    PERFORM tell_of_disputes(match_dispute_lines.at, opened_ids,
                             array_fill('dispute.opened'::text, ARRAY[cardinality(opened_ids)]),
                             array_fill('settlement file'::text, ARRAY[cardinality(opened_ids)]));
    PERFORM settle_untold_disputes(match_dispute_lines.at, touched);
    PERFORM follow_disputes(match_dispute_lines.at,
                            ARRAY(SELECT DISTINCT d.order_id FROM dispute AS d WHERE d.dispute_id = ANY (touched)),
                            'settlement file');
    PERFORM watch_disputes(match_dispute_lines.at, touched, match_dispute_lines.at);

    -- 6. Which line speaks for which movement, and what stays a break.
    WITH spoken AS (
        INSERT INTO settled_movement AS s (movement_id, file_id, line_no, occurred_at)
        SELECT l.movement_id, new_file_id, l.line_no, l.occurred_at FROM dispute_line AS l
         WHERE l.verdict IN ('matched', 'amount')
     RETURNING s.movement_id, s.line_no, s.occurred_at
    ), told AS (
        SELECT m.movement_id, m.dispute_id, s.line_no, s.occurred_at
          FROM (SELECT movement_id, line_no, occurred_at FROM spoken
                UNION ALL
                SELECT r.id, NULL, NULL FROM unnest(released) AS r (id)
                 WHERE NOT EXISTS (SELECT FROM spoken AS p WHERE p.movement_id = r.id)) AS s
          JOIN dispute_movement AS m ON m.movement_id = s.movement_id
    )
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT d.payment_id, time_ordered_id(match_dispute_lines.at), 'dispute.funds_settled', d.shop_id, d.mode,
           match_dispute_lines.at,
           json_build_object('order_id', d.order_id, 'dispute_id', d.dispute_id, 'movement_id', t.movement_id,
                             'file_id', CASE WHEN t.line_no IS NOT NULL THEN new_file_id END, 'line_no', t.line_no,
                             'occurred_at', t.occurred_at)
      FROM told AS t JOIN dispute AS d ON d.dispute_id = t.dispute_id;
    UPDATE reconciliation_break AS k
       SET closed_at = match_dispute_lines.at, closed_by = 'coatcheck', reason = 'a later file has it'
      FROM dispute_line AS l
     WHERE k.closed_at IS NULL AND k.break_id = derived_id('unsettled movement', hex_of(l.movement_id))
       AND l.verdict IN ('matched', 'amount');
    UPDATE settlement_line AS s SET verdict = l.verdict FROM dispute_line AS l
     WHERE s.file_id = new_file_id AND s.line_no = l.line_no;
    DELETE FROM reconciliation_break AS k USING dispute_line AS l
     WHERE k.file_id = new_file_id AND k.line_no = l.line_no AND l.verdict = 'matched';
    UPDATE reconciliation_break AS k
       SET kind = l.verdict, expected_minor = m.gross_minor,
           suspense_minor = CASE l.verdict WHEN 'amount' THEN l.gross_minor - m.gross_minor ELSE l.gross_minor END
      FROM dispute_line AS l LEFT JOIN dispute_movement AS m ON m.movement_id = l.movement_id
     WHERE k.file_id = new_file_id AND k.line_no = l.line_no AND l.verdict <> 'matched';
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, currency, expected_minor, suspense_minor,
                                      detail, opened_at)
    SELECT derived_id('released movement', hex_of(new_file_id), hex_of(m.movement_id)), shop, world, psp, 'missing_at_psp',
           m.currency, m.gross_minor, 0, 'chargeback ' || d.provider_reference || ': its batch was issued again without it',
           match_dispute_lines.at
      FROM dispute_movement AS m JOIN dispute AS d ON d.dispute_id = m.dispute_id
     WHERE m.movement_id = ANY (released)
       AND NOT EXISTS (SELECT FROM settled_movement AS s WHERE s.movement_id = m.movement_id);

    PERFORM book_dispute_movements(match_dispute_lines.at, movement_ids, ARRAY(
        SELECT a.account_id FROM account AS a
         WHERE a.shop_id = shop AND a.mode = world
           AND a.name IN ('psp:' || psp || ':receivable', 'psp:' || psp || ':payouts_in_transit', 'platform:psp_fees',
                          'suspense:' || psp, 'fx:' || psp)));
END;
$$;

-- What PSPs have told of and no file has: moved so long before this file's last charge that a file must have told of it (H7).
CREATE OR REPLACE FUNCTION break_unsettled_movements(
    at timestamptz, new_file_id uuid, shop uuid, world text, psp text, drift interval
) RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH opened AS (
        INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, currency, expected_minor, suspense_minor,
                                          detail, opened_at)
        SELECT derived_id('unsettled movement', hex_of(m.movement_id)), shop, world, psp, 'missing_at_psp', m.currency,
               m.gross_minor, 0, concat_ws(' ', 'chargeback', d.provider_reference, m.name), break_unsettled_movements.at
          FROM dispute_movement AS m JOIN dispute AS d ON d.dispute_id = m.dispute_id
         WHERE d.shop_id = shop AND d.mode = world AND d.provider = psp
           AND m.moved_at < (SELECT r.last_at - drift FROM settlement_reach AS r WHERE r.file_id = new_file_id)
           AND NOT EXISTS (SELECT FROM settled_movement AS s WHERE s.movement_id = m.movement_id)
        ON CONFLICT (break_id) DO NOTHING
     RETURNING 1
    )
    SELECT count(*)::integer FROM opened;
$$;

-- Disputes of which only files have told stand as their money does: with us again is over.
CREATE OR REPLACE FUNCTION settle_untold_disputes(at timestamptz, dispute_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    changed uuid[];
    kinds text[];
BEGIN
    WITH moved AS (
        UPDATE dispute AS d SET status = s.status, changed_at = settle_untold_disputes.at, revision = d.revision + 1
          FROM (SELECT m.dispute_id, CASE WHEN min(m.net) < 0 THEN 'NEEDS_RESPONSE' ELSE 'WON' END AS status
                  FROM (SELECT k.dispute_id, k.currency, sum(k.gross_minor) AS net FROM dispute_movement AS k
                         WHERE k.dispute_id = ANY (dispute_ids) GROUP BY k.dispute_id, k.currency) AS m
                 GROUP BY m.dispute_id) AS s
         WHERE d.dispute_id = s.dispute_id AND d.word_no IS NULL AND d.status <> s.status
     RETURNING d.dispute_id, d.status
    )
    SELECT coalesce(array_agg(m.dispute_id), '{}'),
           array_agg(CASE m.status WHEN 'WON' THEN 'dispute.won' ELSE 'dispute.reopened' END)
      INTO changed, kinds FROM moved AS m;
    PERFORM tell_of_disputes(settle_untold_disputes.at, changed, kinds,
                             array_fill('settlement file'::text, ARRAY[cardinality(changed)]));
END;
$$;

-- Take open disputes whose time to be asked about has come; they come again at `again_at`, unless they are over by then.
CREATE OR REPLACE FUNCTION claim_disputes(at timestamptz, again_at timestamptz, providers text[], most integer)
RETURNS TABLE (dispute_id uuid)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    UPDATE dispute_watch AS w SET due_at = again_at
     WHERE w.dispute_id = ANY (ARRAY(
               SELECT d.dispute_id FROM dispute_watch AS d
                WHERE d.due_at <= claim_disputes.at AND d.provider = ANY (providers)
                ORDER BY d.due_at LIMIT most FOR UPDATE SKIP LOCKED))
 RETURNING w.dispute_id;
$$;

-- A shop answers a dispute: the intent, with all that will be sent, before the PSP hears of it. 'requested', 'exists' (the
-- same key and content), 'key_reused', 'unknown', 'not_open', 'busy' (another answer that ends it is on its way).
-- Idempotent on the evidence's id, for ever. Locks: the dispute.
CREATE OR REPLACE FUNCTION request_evidence(
    at timestamptz, lease_until timestamptz, wanted_dispute uuid, new_evidence_id uuid, request_key text, kind text,
    digest bytea, manifest text, ends_it boolean, who text, content bytea, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    d dispute;
    known dispute_evidence;
BEGIN
    SELECT * INTO d FROM dispute AS p WHERE p.dispute_id = wanted_dispute FOR UPDATE;
    IF d.dispute_id IS NULL THEN RETURN 'unknown'; END IF;
    SELECT * INTO known FROM dispute_evidence AS e WHERE e.evidence_id = new_evidence_id;
    IF known.evidence_id IS NOT NULL THEN
        RETURN CASE WHEN known.request_digest = digest THEN 'exists' ELSE 'key_reused' END;
    END IF;
    IF d.status NOT IN ('INQUIRY', 'NEEDS_RESPONSE') THEN RETURN 'not_open'; END IF;
    IF EXISTS (SELECT FROM dispute_evidence AS e
                WHERE e.dispute_id = wanted_dispute AND e.status = 'PENDING' AND e.ends_it) THEN
        RETURN 'busy';
    END IF;
    INSERT INTO dispute_evidence (evidence_id, dispute_id, order_id, payment_id, shop_id, mode, provider, key, kind,
                                  request_digest, manifest, ends_it, requested_by, status, created_at)
    VALUES (new_evidence_id, d.dispute_id, d.order_id, d.payment_id, d.shop_id, d.mode, d.provider, request_key,
            request_evidence.kind, digest, request_evidence.manifest::json, request_evidence.ends_it, who, 'PENDING', at);
    INSERT INTO evidence_parcel (evidence_id, attempt, due_at, first_sent_at, body)
    VALUES (new_evidence_id, 1, lease_until, at, content);
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (d.payment_id, request_evidence.event_id, 'dispute.evidence_requested', d.shop_id, d.mode, request_evidence.at,
            json_build_object('evidence_id', new_evidence_id, 'dispute_id', d.dispute_id, 'order_id', d.order_id,
                              'provider', d.provider, 'provider_reference', d.provider_reference, 'key', request_key,
                              'evidence_kind', request_evidence.kind, 'request_digest', encode(digest, 'hex'),
                              'manifest', request_evidence.manifest::json, 'ends_it', request_evidence.ends_it, 'by', who));
    RETURN 'requested';
END;
$$;

-- Take over answers that nobody passes on at the moment. SKIP LOCKED: nobody waits.
CREATE OR REPLACE FUNCTION claim_parcels(at timestamptz, lease_until timestamptz, providers text[], most integer)
RETURNS TABLE (evidence_id uuid)
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    UPDATE evidence_parcel AS p SET attempt = p.attempt + 1, due_at = lease_until
     WHERE p.evidence_id = ANY (ARRAY(
               SELECT w.evidence_id FROM evidence_parcel AS w JOIN dispute_evidence AS e ON e.evidence_id = w.evidence_id
                WHERE w.due_at <= claim_parcels.at AND e.provider = ANY (providers)
                ORDER BY w.due_at LIMIT most FOR UPDATE OF w SKIP LOCKED))
 RETURNING p.evidence_id;
$$;

-- What became of an answer: the PSP has it ('SENT'), or will not take it ('REFUSED'). Its content is thrown away in the same
-- statement. Fenced by the attempt: false for who comes late.
CREATE OR REPLACE FUNCTION settle_parcel(
    at timestamptz, wanted uuid, held_attempt integer, new_status text, code text, event_id uuid
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    e dispute_evidence;
BEGIN
    DELETE FROM evidence_parcel AS p WHERE p.evidence_id = wanted AND p.attempt = held_attempt;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE dispute_evidence AS v SET status = new_status, refusal_code = code, decided_at = at
     WHERE v.evidence_id = wanted AND v.status = 'PENDING'
    RETURNING * INTO e;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (e.payment_id, settle_parcel.event_id, 'dispute.evidence_' || lower(new_status), e.shop_id, e.mode, settle_parcel.at,
            json_build_object('evidence_id', e.evidence_id, 'dispute_id', e.dispute_id, 'order_id', e.order_id,
                              'provider', e.provider, 'evidence_kind', e.kind, 'refusal_code', code));
    RETURN true;
END;
$$;

-- An answer that the PSP may or may not have: tried again at a time. Fenced by the attempt.
CREATE OR REPLACE FUNCTION postpone_parcel(wanted uuid, held_attempt integer, due timestamptz, why text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    UPDATE evidence_parcel AS p SET due_at = due, cause = why WHERE p.evidence_id = wanted AND p.attempt = held_attempt;
$$;

REVOKE ALL ON FUNCTION dispute_transfers_of, book_dispute_movements, tell_of_disputes, follow_disputes, watch_disputes,
    take_named_movements, apply_dispute_news, match_dispute_lines, break_unsettled_movements, settle_untold_disputes, claim_disputes, request_evidence,
    claim_parcels, settle_parcel, postpone_parcel FROM PUBLIC;
GRANT EXECUTE ON FUNCTION apply_dispute_news, match_dispute_lines, break_unsettled_movements, claim_disputes, request_evidence, claim_parcels,
    settle_parcel, postpone_parcel TO coatcheck_app;
