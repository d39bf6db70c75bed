-- Reconciliation, set-based: a whole file is compared in a few statements, in the one transaction that takes it. Its lines
-- wait in the session's own table incoming_line; what does not come to its end has never happened.

-- A deterministic id of something in a file or batch: the same input gives the same rows, to the byte.
CREATE OR REPLACE FUNCTION reconciliation_id(VARIADIC parts text[]) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT encode(substr(sha256(convert_to(
        'reconciliation' || (SELECT string_agg(length(p) || ':' || p, '' ORDER BY n)
                               FROM unnest(parts) WITH ORDINALITY AS u (p, n)), 'UTF8')), 1, 16), 'hex')::uuid;
$$;

-- Which kinds of operations a line of a kind is about; NULL: it is about none.
CREATE OR REPLACE FUNCTION operations_told_as(line_kind text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE line_kind WHEN 'charge' THEN '{charge,capture}'::text[]
                          WHEN 'refund' THEN '{refund}' WHEN 'refund_returned' THEN '{refund}'
                          WHEN 'seller_payout' THEN '{payout}' WHEN 'seller_payout_returned' THEN '{payout}' END;
$$;

-- An operation's amount as its line has it: below zero where the PSP's balance becomes less by it.
CREATE OR REPLACE FUNCTION told_minor_of(line_kind text, amount_minor bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN line_kind IN ('refund', 'seller_payout') THEN -amount_minor ELSE amount_minor END;
$$;

-- The kind of line that a PSP's files have for an operation once it is approved.
CREATE OR REPLACE FUNCTION line_kind_of(operation_kind text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE operation_kind WHEN 'refund' THEN 'refund' WHEN 'payout' THEN 'seller_payout' ELSE 'charge' END;
$$;

-- Write down how breaks stand by now: each with its whole row, from which a replay makes it again.
CREATE OR REPLACE FUNCTION tell_of_breaks(at timestamptz, wanted uuid[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT k.break_id, time_ordered_id(tell_of_breaks.at), 'break.recorded', k.shop_id, k.mode, tell_of_breaks.at, row_to_json(k)
      FROM reconciliation_break AS k WHERE k.break_id = ANY (wanted);
$$;

-- Tell of all breaks that taking a file has opened, moved or closed: the last step of its transaction, in which breaks that
-- were opened may have gone again. `at` is that of all its steps. The caller holds the provider's files.
CREATE OR REPLACE FUNCTION tell_of_the_breaks_of_a_file(at timestamptz, new_file_id uuid, shop uuid, world text, psp text)
RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT tell_of_breaks(tell_of_the_breaks_of_a_file.at, ARRAY(
        SELECT k.break_id FROM reconciliation_break AS k WHERE k.file_id = new_file_id
        UNION
        SELECT k.break_id FROM reconciliation_break AS k
         WHERE k.shop_id = shop AND k.mode = world AND k.provider = psp AND k.opened_at = tell_of_the_breaks_of_a_file.at
        UNION
        SELECT k.break_id FROM reconciliation_break AS k
         WHERE k.shop_id = shop AND k.mode = world AND k.provider = psp AND k.closed_at = tell_of_the_breaks_of_a_file.at));
$$;

-- Take a file and say whether it is new. Idempotent on its content. Locks: the provider's files of this shop and mode, so
-- that two files are compared one after the other.
CREATE OR REPLACE FUNCTION take_settlement_file(
    at timestamptz, new_file_id uuid, shop uuid, world text, psp text, format text, name text, digest bytea,
    lines integer, who text
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('coatcheck reconciliation ' || shop || world || psp, 0));
    INSERT INTO settlement_file (file_id, shop_id, mode, provider, format, name, content_digest, lines, received_at, received_by)
    VALUES (new_file_id, shop, world, psp, take_settlement_file.format, take_settlement_file.name, digest,
            take_settlement_file.lines, at, who)
    ON CONFLICT (file_id) DO NOTHING;
    RETURN FOUND;
END;
$$;

-- Compare the lines of a file that was just taken: find each one's record, let each record be claimed once, and give each
-- line its verdict. Lines that stay without a record, or differ from it, become breaks.
CREATE OR REPLACE FUNCTION match_settlement_lines(at timestamptz, new_file_id uuid, shop uuid, world text, psp text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET work_mem = '256MB' SET jit = off
AS $$
DECLARE
    earlier record;
    recorded bigint;
    claimed bigint;
BEGIN
    -- 1. Whose line it is: by our reference first, then by the PSP's own id; never by the amount alone. What the PSP has
    -- converted is compared as the buyer was asked for it, in that currency (hazard E8): told_minor, told_currency.
    CREATE TEMP TABLE told_line ON COMMIT DROP AS
    SELECT i.*, coalesce(i.asked_minor, i.gross_minor) AS told_minor, coalesce(i.asked_currency, i.currency) AS told_currency,
           o.operation_id AS record_id, o.status AS record_status, told_minor_of(i.kind, o.amount_minor) AS record_minor,
           o.currency::text AS record_currency, o.provider_reference AS record_reference, o.payment_id, o.refund_id
      FROM incoming_line AS i
      LEFT JOIN operation AS o
        ON o.operation_id = i.operation_id AND o.shop_id = shop AND o.mode = world AND o.provider = psp
       AND o.kind = ANY (operations_told_as(i.kind));
    ANALYZE told_line (line_no, kind, batch, record_id, provider_reference);
    IF EXISTS (SELECT FROM told_line AS t WHERE t.record_id IS NULL AND operations_told_as(t.kind) IS NOT NULL
                                            AND t.provider_reference IS NOT NULL) THEN
        UPDATE told_line AS t
           SET record_id = f.operation_id, record_status = f.status, record_minor = f.amount_minor,
               record_currency = f.currency, record_reference = t.provider_reference, payment_id = f.payment_id,
               refund_id = f.refund_id
          FROM (SELECT DISTINCT ON (i.line_no) i.line_no, o.operation_id, o.status,
                       told_minor_of(i.kind, o.amount_minor) AS amount_minor,
                       o.currency::text AS currency, o.payment_id, o.refund_id
                  FROM told_line AS i
                  JOIN operation AS o ON o.provider_reference = i.provider_reference
                 WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp
                   AND o.kind = ANY (operations_told_as(i.kind)) AND i.record_id IS NULL
                 ORDER BY i.line_no, o.operation_id) AS f
         WHERE t.line_no = f.line_no;
    END IF;
    CREATE TEMP TABLE told_batch ON COMMIT DROP AS SELECT DISTINCT t.batch FROM told_line AS t;

    -- 2. A batch that is issued again speaks for its records in the place of its earlier version.
    -- What two people have said of the earlier one is remembered: said of the same line again, it still holds.
    CREATE TEMP TABLE resolved_before ON COMMIT DROP AS
    SELECT k.break_id, k.kind, k.batch, k.currency, k.suspense_minor, k.closed_by, k.reason, l.reference,
           l.provider_reference,
           row_number() OVER (PARTITION BY k.kind, k.batch, k.currency, k.suspense_minor, l.reference, l.provider_reference
                                  ORDER BY k.line_no) AS n
      FROM settlement_batch AS b
      JOIN reconciliation_break AS k ON k.file_id = b.file_id AND k.batch = b.batch AND k.currency = b.currency
      JOIN break_resolution AS r ON r.break_id = k.break_id AND r.confirmed_at IS NOT NULL
      JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
     WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp AND k.suspense_minor <> 0
       AND b.batch IN (SELECT t.batch FROM told_batch AS t);
    CREATE TEMP TABLE withdrawn_record (operation_id uuid NOT NULL, kind text NOT NULL) ON COMMIT DROP;
    FOR earlier IN
        SELECT b.file_id, b.batch FROM settlement_batch AS b
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT t.batch FROM told_batch AS t)
    LOOP
        WITH withdrawn AS (
            DELETE FROM settled_record AS s USING settlement_line AS l
             WHERE l.file_id = earlier.file_id AND l.batch = earlier.batch AND s.operation_id = l.operation_id
               AND s.kind = l.kind AND s.file_id = l.file_id AND s.line_no = l.line_no
         RETURNING s.operation_id, s.kind
        )
        INSERT INTO withdrawn_record SELECT w.operation_id, w.kind FROM withdrawn AS w;
        -- What is to be said anew about a line that went away goes along with the batch.
        UPDATE reconciliation_break AS k SET file_id = new_file_id, moved = k.moved + 1
         WHERE k.closed_at IS NULL AND k.kind = 'unexplained' AND k.line_no IS NULL
           AND k.file_id = earlier.file_id AND k.batch = earlier.batch;
        UPDATE reconciliation_break AS k
           SET closed_at = match_settlement_lines.at, closed_by = 'coatcheck', reason = 'the batch was issued again'
         WHERE k.closed_at IS NULL AND k.shop_id = shop AND k.mode = world AND k.provider = psp
           AND k.file_id = earlier.file_id AND k.batch = earlier.batch;
    END LOOP;

    -- 3. Each record is claimed by one line, for its other parts too. Of several the one that the PSP calls as we know it,
    -- then the one of our amount, then by what else they say: where it stands in the file decides nothing. In the order of
    -- the ids, which is that of the index.
    INSERT INTO settled_record (operation_id, kind, file_id, line_no)
    WITH named AS MATERIALIZED (
        SELECT t.record_id, t.kind, min(t.line_no) AS line_no, count(*) AS lines
          FROM told_line AS t WHERE t.record_id IS NOT NULL
         GROUP BY t.record_id, t.kind
    ), best AS (
        SELECT DISTINCT ON (t.record_id, t.kind) t.record_id, t.kind, t.line_no
          FROM named AS n
          JOIN told_line AS t ON t.record_id = n.record_id AND t.kind = n.kind
         WHERE n.lines > 1
         ORDER BY t.record_id, t.kind, t.provider_reference IS DISTINCT FROM t.record_reference,
                  t.told_currency <> t.record_currency OR t.told_minor <> t.record_minor, t.occurred_at,
                  t.provider_reference, t.told_currency, t.told_minor, t.batch, t.net_minor, t.line_no
    )
    SELECT n.record_id, n.kind, new_file_id, coalesce(b.line_no, n.line_no)
      FROM named AS n LEFT JOIN best AS b ON b.record_id = n.record_id AND b.kind = n.kind
     ORDER BY n.record_id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS claimed = ROW_COUNT;
    SELECT count(t.record_id) INTO recorded FROM told_line AS t;
    -- Where every line has claimed a record of its own, there are no others to compare with.
    CREATE TEMP TABLE claimed_record ON COMMIT DROP AS
    WITH disputed AS MATERIALIZED (
        SELECT DISTINCT t.record_id, t.kind
          FROM told_line AS t
          JOIN settled_record AS s ON s.operation_id = t.record_id AND s.kind = t.kind
         WHERE (s.file_id, s.line_no) <> (new_file_id, t.line_no)
    )
    SELECT t.line_no, s.file_id AS claim_file, s.line_no AS claim_line,
           coalesce(here.provider_reference, before.provider_reference) AS claim_reference,
           count(*) OVER parts AS parts, sum(t.told_minor) OVER parts AS together_minor,
           bool_and(t.told_currency = t.record_currency) OVER parts AS are_of_one_currency
      FROM disputed AS d
      JOIN told_line AS t ON t.record_id = d.record_id AND t.kind = d.kind
      JOIN settled_record AS s ON s.operation_id = d.record_id AND s.kind = d.kind
      LEFT JOIN told_line AS here ON s.file_id = new_file_id AND here.line_no = s.line_no
      LEFT JOIN settlement_line AS before
        ON s.file_id <> new_file_id AND before.file_id = s.file_id AND before.line_no = s.line_no
     WHERE claimed < recorded
    WINDOW parts AS (PARTITION BY t.record_id, t.kind);

    -- 4. The verdict of each line. Of a conversion both sides must be there: of one charge, in two currencies, each one way.
    CREATE TEMP TABLE whole_conversion ON COMMIT DROP AS
    SELECT t.batch, t.charge_reference FROM told_line AS t WHERE t.kind = 'conversion' AND t.charge_reference IS NOT NULL
     GROUP BY 1, 2
    HAVING count(DISTINCT t.currency) = 2 AND count(DISTINCT sign(t.gross_minor)) = 2
       AND count(DISTINCT (t.currency, sign(t.gross_minor))) = 2 AND bool_and(t.gross_minor <> 0);
    INSERT INTO settlement_line (file_id, line_no, kind, batch, reference, provider_reference, charge_reference,
                                 operation_id, occurred_at, currency, gross_minor, fee_minor, net_minor, asked_minor,
                                 asked_currency, verdict)
    SELECT new_file_id, t.line_no, t.kind, t.batch, t.reference, t.provider_reference, t.charge_reference,
           t.record_id, t.occurred_at, t.currency, t.gross_minor, t.fee_minor, t.net_minor, t.asked_minor, t.asked_currency,
           CASE
               WHEN t.kind IN ('payout', 'fee') THEN t.kind
               WHEN v.batch IS NOT NULL THEN 'conversion'
               WHEN operations_told_as(t.kind) IS NULL THEN 'unexplained'
               WHEN t.record_id IS NULL THEN 'missing_here'
               -- Some PSPs tell of one capture in parts: the whole authorization, and back what was not taken of it.
               WHEN c.parts > 1 AND c.claim_file = new_file_id AND t.record_status = 'APPROVED'
                    AND c.are_of_one_currency AND c.together_minor = t.record_minor THEN 'matched'
               WHEN (c.claim_file, c.claim_line) <> (new_file_id, t.line_no) THEN
                   CASE WHEN t.provider_reference IS NOT DISTINCT FROM c.claim_reference
                        THEN 'duplicate_line' ELSE 'duplicate_charge' END
               WHEN t.told_currency <> t.record_currency THEN 'currency'
               WHEN t.told_minor <> t.record_minor THEN 'amount'
               WHEN NOT CASE t.kind
                        WHEN 'charge' THEN t.record_status = 'APPROVED'
                        WHEN 'refund' THEN t.record_status = 'APPROVED' OR r.status = 'FAILED' AND EXISTS (
                            SELECT FROM event AS e
                             WHERE e.subject_id = t.payment_id AND e.kind = 'refund.returned'
                               AND e.body ->> 'operation_id' = t.record_id::text)
                        WHEN 'refund_returned' THEN r.status = 'FAILED'
                        WHEN 'seller_payout' THEN p.status IN ('PAID', 'RETURNED')
                        ELSE p.status = 'RETURNED' END THEN 'status'
               ELSE 'matched'
           END
      FROM told_line AS t
      LEFT JOIN claimed_record AS c ON c.line_no = t.line_no
      LEFT JOIN whole_conversion AS v
        ON t.kind = 'conversion' AND v.batch = t.batch AND v.charge_reference = t.charge_reference
      LEFT JOIN refund AS r ON r.refund_id = t.refund_id
      LEFT JOIN payout AS p ON p.payout_id = t.payment_id
     ORDER BY t.line_no;

    -- 5. What is not as it should be.
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, operation_id,
                                      currency, expected_minor, stated_minor, suspense_minor, detail, opened_at)
    SELECT reconciliation_id('line', new_file_id::text, l.line_no::text), shop, world, psp, l.verdict, new_file_id,
           l.line_no, l.batch, l.operation_id, e.currency, e.expected, e.stated,
           CASE l.verdict WHEN 'amount' THEN e.stated - e.expected ELSE e.stated END,
           concat_ws(' ', l.kind, l.provider_reference, l.reference), match_settlement_lines.at
      FROM settlement_line AS l
     CROSS JOIN LATERAL (
           SELECT coalesce(l.asked_minor, l.gross_minor) AS stated, coalesce(l.asked_currency, l.currency) AS currency,
                  (SELECT told_minor_of(l.kind, o.amount_minor)
                     FROM operation AS o WHERE o.operation_id = l.operation_id) AS expected) AS e
     WHERE l.file_id = new_file_id AND l.verdict NOT IN ('matched', 'payout', 'fee', 'conversion');
    IF EXISTS (SELECT FROM resolved_before) THEN
        PERFORM keep_resolutions(match_settlement_lines.at, new_file_id, shop, world, psp);
    END IF;

    INSERT INTO settlement_reach (file_id, first_at, last_at)
    SELECT new_file_id, min(t.occurred_at), max(t.occurred_at) FROM told_line AS t WHERE t.kind = 'charge'
    HAVING count(*) > 0;

    -- 6. What was missing at the PSP and is here now was only late.
    UPDATE reconciliation_break AS k
       SET closed_at = match_settlement_lines.at, closed_by = 'coatcheck', reason = 'a later file has it'
      FROM settled_record AS s
     WHERE k.closed_at IS NULL AND k.kind = 'missing_at_psp' AND s.operation_id = k.operation_id
       AND s.operation_id IN (SELECT t.record_id FROM told_line AS t) AND s.file_id = new_file_id;
END;
$$;

-- The open breaks of records that were told in parts, of which a file has brought the last: lines of several files under the
-- PSP's one name for it, of which one claims the record with another amount, and which come to that amount together, to the
-- minor unit. The same movement told twice is no part: parts differ in their time or amount.
CREATE OR REPLACE FUNCTION parts_of_a_whole(of_file uuid) RETURNS TABLE (break_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH part AS MATERIALIZED (
        SELECT k.break_id, k.operation_id, k.kind, k.currency, k.expected_minor, k.stated_minor, l.kind AS line_kind,
               l.provider_reference, l.occurred_at
          FROM settlement_file AS f
          JOIN reconciliation_break AS k ON k.shop_id = f.shop_id AND k.mode = f.mode AND k.provider = f.provider
          JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
         WHERE f.file_id = of_file AND k.closed_at IS NULL AND k.kind IN ('amount', 'duplicate_line')
           AND l.kind IN ('charge', 'refund', 'seller_payout') AND l.provider_reference IS NOT NULL
           AND k.operation_id IN (SELECT n.operation_id FROM reconciliation_break AS n
                                   WHERE n.file_id = of_file AND n.closed_at IS NULL
                                     AND n.kind IN ('amount', 'duplicate_line'))
    ), whole AS (
        SELECT p.operation_id, p.line_kind, p.provider_reference, p.currency
          FROM part AS p JOIN operation AS o ON o.operation_id = p.operation_id AND o.status = 'APPROVED'
         GROUP BY 1, 2, 3, 4
        HAVING count(*) FILTER (WHERE p.kind = 'amount') = 1 AND count(*) > 1
           AND sum(p.stated_minor) = max(p.expected_minor) FILTER (WHERE p.kind = 'amount')
           AND count(*) = count(DISTINCT (p.stated_minor, p.occurred_at))
    )
    SELECT p.break_id FROM part AS p
      JOIN whole AS w USING (operation_id, line_kind, provider_reference, currency) ORDER BY p.break_id;
$$;

-- A batch that is issued again may not have its part of a record any more: the breaks of the other parts are open again, as
-- if it had never come, until the new version is compared. `why`: the reason with which parts are closed. Returns those
-- breaks, for the caller to put into suspense again what they stand for. Reads incoming_line. Holds the provider's files.
CREATE OR REPLACE FUNCTION take_parts_apart(at timestamptz, shop uuid, world text, psp text, why text)
RETURNS SETOF reconciliation_break
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    opened uuid[];
BEGIN
    WITH again AS (
        SELECT b.batch, b.currency, b.file_id FROM settlement_batch AS b
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT i.batch FROM incoming_line AS i)
    ), withdrawn AS (
        SELECT DISTINCT k.operation_id
          FROM again AS a
          JOIN reconciliation_break AS k ON k.file_id = a.file_id AND k.batch = a.batch AND k.currency = a.currency
         WHERE k.reason = why AND k.closed_by = 'coatcheck'
    ), apart AS (
        UPDATE reconciliation_break AS k
           SET closed_at = NULL, closed_by = NULL, reason = NULL, moved = k.moved + 1
          FROM withdrawn AS w, settlement_batch AS b  -- of the last versions of their batches alone
         WHERE k.operation_id = w.operation_id AND k.shop_id = shop AND k.mode = world AND k.provider = psp
           AND k.reason = why AND k.closed_by = 'coatcheck' AND k.batch NOT IN (SELECT a.batch FROM again AS a)
           AND (b.shop_id, b.mode, b.provider, b.batch, b.currency, b.file_id)
               = (k.shop_id, k.mode, k.provider, k.batch, k.currency, k.file_id)
     RETURNING k.break_id, k.file_id, k.batch, k.currency, k.suspense_minor
    ), unexplained AS (
        UPDATE settlement_batch AS b SET unexplained_minor = b.unexplained_minor + s.minor
          FROM (SELECT a.file_id, a.batch, a.currency, sum(a.suspense_minor)::bigint AS minor FROM apart AS a
                 GROUP BY 1, 2, 3) AS s
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND (b.file_id, b.batch, b.currency) = (s.file_id, s.batch, s.currency)
    )
    SELECT coalesce(array_agg(a.break_id), '{}') INTO opened FROM apart AS a;
    PERFORM tell_of_breaks(take_parts_apart.at, opened);
    RETURN QUERY SELECT k.* FROM reconciliation_break AS k WHERE k.break_id = ANY (opened) ORDER BY k.break_id;
END;
$$;

-- What two people have said of a line of a batch's earlier version, for the version just taken: of a line that is there again
-- it holds, and its money stays where they sent it. Of a line that is gone it must be said anew, the other way.
CREATE OR REPLACE FUNCTION keep_resolutions(at timestamptz, new_file_id uuid, shop uuid, world text, psp text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    CREATE TEMP TABLE kept_resolution ON COMMIT DROP AS
    SELECT k.break_id, r.break_id AS before_id, r.closed_by, r.reason
      FROM (SELECT b.break_id, b.kind, b.batch, b.currency, b.suspense_minor, l.reference, l.provider_reference,
                   row_number() OVER (PARTITION BY b.kind, b.batch, b.currency, b.suspense_minor, l.reference,
                                                   l.provider_reference ORDER BY b.line_no) AS n
              FROM reconciliation_break AS b
              JOIN settlement_line AS l ON l.file_id = b.file_id AND l.line_no = b.line_no
             WHERE b.file_id = new_file_id) AS k
      JOIN resolved_before AS r
        ON (k.kind, k.batch, k.currency, k.suspense_minor, k.n) = (r.kind, r.batch, r.currency, r.suspense_minor, r.n)
       AND k.reference IS NOT DISTINCT FROM r.reference
       AND k.provider_reference IS NOT DISTINCT FROM r.provider_reference;
    UPDATE reconciliation_break AS b SET closed_at = at, closed_by = k.closed_by, reason = k.reason
      FROM kept_resolution AS k WHERE b.break_id = k.break_id;
    INSERT INTO break_resolution (break_id, proposal_id, destination, account, account_name, note, evidence, proposed_by,
                                  proposed_at, expires_at, confirmed_by, confirmed_at)
    SELECT k.break_id, r.proposal_id, r.destination, r.account, r.account_name, r.note, r.evidence, r.proposed_by,
           r.proposed_at, r.expires_at, r.confirmed_by, r.confirmed_at
      FROM kept_resolution AS k JOIN break_resolution AS r ON r.break_id = k.before_id;
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, batch, currency, suspense_minor,
                                      detail, opened_at)
    SELECT reconciliation_id('gone', new_file_id::text, r.break_id::text), shop, world, psp, 'unexplained', new_file_id,
           r.batch, r.currency, -r.suspense_minor,
           concat_ws(' ', 'resolved by two people, and gone from the batch that was issued again:', r.kind,
                     r.provider_reference, r.reference), at
      FROM resolved_before AS r
     WHERE NOT EXISTS (SELECT FROM kept_resolution AS k WHERE k.before_id = r.break_id);
    DROP TABLE kept_resolution;
END;
$$;

-- What a file changes in each batch and currency, against what the books have of it: fees, payouts, what is unexplained, and
-- what was changed into or out of that currency. Notes it as had. The caller posts the differences in the same transaction.
CREATE OR REPLACE FUNCTION settle_batches(new_file_id uuid, shop uuid, world text, psp text)
RETURNS TABLE (batch text, currency text, version integer, fee_minor bigint, payout_minor bigint, unexplained_minor bigint,
               converted_minor bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH said AS MATERIALIZED (
        SELECT l.batch, l.currency, l.asked_currency,
               sum(CASE WHEN l.kind = 'fee' THEN -l.net_minor
                        -- What a dispute has booked as its fee (match_dispute_lines) is not booked again as the PSP's.
                        WHEN l.kind IN ('chargeback', 'chargeback_reversed') THEN l.fee_minor - coalesce((
                            SELECT m.fee_minor FROM settled_movement AS s JOIN dispute_movement AS m USING (movement_id)
                             WHERE s.file_id = l.file_id AND s.line_no = l.line_no), 0)
                        ELSE l.fee_minor END) AS fee,
               coalesce(sum(-l.net_minor) FILTER (WHERE l.kind = 'payout'), 0) AS payout,
               sum(l.gross_minor) AS gross, sum(l.asked_minor) AS asked,
               coalesce(sum(l.gross_minor) FILTER (WHERE l.verdict = 'conversion'), 0) AS changed
          FROM settlement_line AS l
         WHERE l.file_id = new_file_id
         GROUP BY l.batch, l.currency, l.asked_currency
    ), told AS (
        SELECT e.batch, e.currency, sum(e.fee)::bigint AS fee, sum(e.payout)::bigint AS payout,
               sum(e.converted)::bigint AS converted
          FROM (SELECT s.batch, s.currency, s.fee, s.payout,
                       CASE WHEN s.asked_currency IS NULL THEN s.changed ELSE s.gross END AS converted
                  FROM said AS s
                 UNION ALL
                SELECT s.batch, s.asked_currency, 0, 0, -s.asked FROM said AS s WHERE s.asked_currency IS NOT NULL
                 UNION ALL  -- what the batch had before: it may have no more of that currency
                SELECT b.batch, b.currency, 0, 0, 0
                  FROM settlement_batch AS b
                 WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
                   AND b.batch IN (SELECT s.batch FROM said AS s)) AS e
         GROUP BY e.batch, e.currency
    ), strange AS (
        SELECT k.batch, k.currency, sum(k.suspense_minor)::bigint AS unexplained
          FROM reconciliation_break AS k
         WHERE k.file_id = new_file_id AND k.batch IS NOT NULL AND k.suspense_minor <> 0 AND k.closed_at IS NULL
         GROUP BY k.batch, k.currency
    ), now_is AS (
        SELECT t.batch, t.currency, t.fee, t.payout, t.converted, coalesce(s.unexplained, 0) AS unexplained
          FROM told AS t LEFT JOIN strange AS s ON s.batch = t.batch AND s.currency = t.currency
    ), before AS (
        SELECT b.batch, b.currency, b.fee_minor AS fee, b.payout_minor AS payout, b.unexplained_minor AS unexplained,
               b.converted_minor AS converted
          FROM settlement_batch AS b
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT t.batch FROM told AS t)
    ), kept AS (
        INSERT INTO settlement_batch AS b (shop_id, mode, provider, batch, currency, version, file_id, fee_minor,
                                           payout_minor, unexplained_minor, converted_minor)
        SELECT shop, world, psp, n.batch, n.currency, 1, new_file_id, n.fee, n.payout, n.unexplained, n.converted
          FROM now_is AS n
        ON CONFLICT ON CONSTRAINT settlement_batch_pkey DO UPDATE
           SET version = b.version + 1, file_id = excluded.file_id, fee_minor = excluded.fee_minor,
               payout_minor = excluded.payout_minor, unexplained_minor = excluded.unexplained_minor,
               converted_minor = excluded.converted_minor
     RETURNING b.batch, b.currency, b.version
    )
    SELECT n.batch, n.currency, k.version, n.fee - coalesce(b.fee, 0), n.payout - coalesce(b.payout, 0),
           n.unexplained - coalesce(b.unexplained, 0), n.converted - coalesce(b.converted, 0)
      FROM now_is AS n
      JOIN kept AS k ON k.batch = n.batch AND k.currency = n.currency
      LEFT JOIN before AS b ON b.batch = n.batch AND b.currency = n.currency
     ORDER BY n.batch, n.currency;
END;
$$;

-- A file that does not agree with its own totals.
CREATE OR REPLACE FUNCTION break_control_totals(
    at timestamptz, new_file_id uuid, shop uuid, world text, psp text, whats text[], batches text[], currencies text[],
    stated bigint[], counted bigint[]
) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, batch, currency, expected_minor,
                                      stated_minor, suspense_minor, detail, opened_at)
    SELECT reconciliation_id('total', new_file_id::text, g.n::text), shop, world, psp, 'control_total', new_file_id,
           g.batch, g.currency, g.counted, g.stated, 0, g.what, at
      FROM unnest(whats, batches, currencies, stated, counted)
           WITH ORDINALITY AS g (what, batch, currency, stated, counted, n);
$$;

-- What we have and no file has: approved so long before this file's last charge that a file must have told of it. Looked at
-- is what was decided since the time up to which the files before this one were looked at: what is older is settled or
-- has its break. Of a batch that was issued again with less in it, what went away is looked at too, however old.
CREATE OR REPLACE FUNCTION break_unsettled(at timestamptz, new_file_id uuid, shop uuid, world text, psp text, drift interval)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    due timestamptz := (SELECT r.last_at - drift FROM settlement_reach AS r WHERE r.file_id = new_file_id);
    due_before timestamptz := coalesce(
        (SELECT max(r.last_at) - drift
           FROM settlement_file AS f JOIN settlement_reach AS r ON r.file_id = f.file_id
          WHERE f.shop_id = shop AND f.mode = world AND f.provider = psp AND f.file_id <> new_file_id), '-infinity');
    opened integer;
BEGIN
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, operation_id, currency, expected_minor,
                                      stated_minor, suspense_minor, detail, opened_at)
    SELECT wanted.break_id, shop, world, psp, 'missing_at_psp', o.operation_id,
           o.currency, told_minor_of(line_kind_of(o.kind), o.amount_minor), NULL, 0,
           concat_ws(' ', o.kind, o.provider_reference), break_unsettled.at
      FROM (SELECT u.operation_id, reconciliation_id('unsettled', u.operation_id::text) AS break_id
              FROM operation AS u
             WHERE u.decided_at >= due_before AND u.decided_at < due AND u.shop_id = shop AND u.mode = world
             UNION ALL
            -- Whatever was said of it before is closed: a file had it.
            SELECT w.operation_id, reconciliation_id('unsettled', w.operation_id::text, new_file_id::text)
              FROM withdrawn_record AS w JOIN operation AS u USING (operation_id)
             WHERE w.kind IN ('charge', 'refund', 'seller_payout') AND u.decided_at < due_before) AS wanted
      JOIN operation AS o USING (operation_id)
     WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp AND o.status = 'APPROVED'
       AND (o.kind IN ('charge', 'capture', 'refund') OR o.kind = 'payout' AND paid_from_balance(o.order_id))
       AND NOT EXISTS (SELECT FROM settled_record AS s
                        WHERE s.operation_id = o.operation_id AND s.kind = line_kind_of(o.kind))
    ON CONFLICT (break_id) DO NOTHING;
    GET DIAGNOSTICS opened = ROW_COUNT;
    RETURN opened;
END;
$$;

-- What is undecided, was sent so long ago that every file must have told of it, and that no file has told of (hazard H7). Nothing
-- while a file is missing: one that was expected and has not come (a break 'late'), one that does not agree with itself, or a
-- gap in the numbers of the batches. Nor what a line that nobody knows could be: the same amount, currency and direction, or
-- of a capture the same charge. Of pages only those that nobody was ever sent to: on any other a buyer may still pay.
CREATE OR REPLACE FUNCTION absent_operations(at timestamptz, shop uuid, world text, psp text, drift interval)
RETURNS TABLE (operation_id uuid, first_sent_at timestamptz, covered_until timestamptz, files bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH reach AS MATERIALIZED (
        SELECT max(r.last_at) AS until, count(*) AS files
          FROM settlement_file AS f JOIN settlement_reach AS r ON r.file_id = f.file_id
         WHERE f.shop_id = shop AND f.mode = world AND f.provider = psp
    ), gap AS MATERIALIZED (
        SELECT 1
          FROM (SELECT DISTINCT (regexp_match(b.batch, '^(.*?)([0-9]{1,15})$'))[1] AS series,
                       (regexp_match(b.batch, '^(.*?)([0-9]{1,15})$'))[2]::bigint AS number
                  FROM settlement_batch AS b
                 WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp AND b.batch ~ '[0-9]$') AS s
         GROUP BY s.series HAVING max(s.number) - min(s.number) + 1 <> count(*)
    )
    SELECT o.operation_id, o.first_sent_at, reach.until, reach.files
      FROM reach
     CROSS JOIN lease AS l
      JOIN operation AS o ON o.operation_id = l.operation_id
     WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp AND o.status IN ('OPEN', 'UNRESOLVED')
       AND (o.kind IN ('charge', 'capture', 'refund') AND NOT o.is_hosted
            OR o.kind = 'charge' AND o.is_hosted AND o.provider_reference IS NULL)
       AND o.first_sent_at + drift < least(reach.until, absent_operations.at)
       AND NOT EXISTS (SELECT FROM gap)
       AND NOT EXISTS (SELECT FROM settled_record AS s WHERE s.operation_id = o.operation_id)
       AND NOT EXISTS (
           SELECT FROM reconciliation_break AS k
            WHERE k.shop_id = shop AND k.mode = world AND k.provider = psp AND k.closed_at IS NULL
              AND (k.kind IN ('late', 'control_total') OR k.operation_id = o.operation_id
                   OR k.kind IN ('missing_here', 'unexplained', 'duplicate_charge') AND k.currency = o.currency
                      AND k.stated_minor = told_minor_of(line_kind_of(o.kind), o.amount_minor)))
       AND NOT (o.kind = 'capture' AND EXISTS (
           SELECT FROM reconciliation_break AS k
             JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
            WHERE k.shop_id = shop AND k.mode = world AND k.provider = psp AND k.closed_at IS NULL
              AND o.target_reference IN (l.charge_reference, l.provider_reference)))
     ORDER BY o.first_sent_at, o.operation_id;
$$;

-- Close breaks, each once; returns those that were open, for the caller to take what stands in suspense back out in the
-- same transaction. What their batches have there is less by that. Locks: the files of their provider, the breaks.
CREATE OR REPLACE FUNCTION close_breaks(at timestamptz, wanted uuid[], who text, why text)
RETURNS SETOF reconciliation_break
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    PERFORM lock_reconciliation(b.shop_id, b.mode, b.provider)
       FROM (SELECT DISTINCT k.shop_id, k.mode, k.provider FROM reconciliation_break AS k WHERE k.break_id = ANY (wanted)
              ORDER BY 1, 2, 3) AS b;
    RETURN QUERY
    WITH closed AS (
        UPDATE reconciliation_break AS k SET closed_at = at, closed_by = who, reason = why
         WHERE k.break_id = ANY (wanted) AND k.closed_at IS NULL
     RETURNING k.*
    ), explained AS (
        UPDATE settlement_batch AS b SET unexplained_minor = b.unexplained_minor - c.minor
          FROM (SELECT k.shop_id, k.mode, k.provider, k.batch, k.currency, k.file_id, sum(k.suspense_minor)::bigint AS minor
                  FROM closed AS k GROUP BY 1, 2, 3, 4, 5, 6) AS c
         WHERE (b.shop_id, b.mode, b.provider, b.batch, b.currency, b.file_id)
               = (c.shop_id, c.mode, c.provider, c.batch, c.currency, c.file_id)
    )
    SELECT * FROM closed;
    PERFORM tell_of_breaks(close_breaks.at, ARRAY(
        SELECT k.break_id FROM reconciliation_break AS k WHERE k.break_id = ANY (wanted) AND k.closed_at = close_breaks.at));
END;
$$;

REVOKE ALL ON FUNCTION absent_operations, close_breaks, keep_resolutions, reconciliation_id, take_settlement_file,
    match_settlement_lines, settle_batches, break_control_totals, break_unsettled, parts_of_a_whole, take_parts_apart,
    tell_of_breaks, tell_of_the_breaks_of_a_file FROM PUBLIC;
GRANT EXECUTE ON FUNCTION absent_operations, close_breaks, take_settlement_file, match_settlement_lines, settle_batches, break_control_totals,
    break_unsettled, parts_of_a_whole, take_parts_apart, tell_of_the_breaks_of_a_file TO coatcheck_app;
