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
SET work_mem = '256MB'
AS $$
DECLARE
    earlier record;
BEGIN
    -- 1. Whose line it is: by our reference first, then by the PSP's own id; never by the amount alone.
    CREATE TEMP TABLE found_record ON COMMIT DROP AS
    SELECT i.line_no, o.operation_id
      FROM incoming_line AS i
      JOIN operation AS o ON o.operation_id = i.operation_id
     WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp
       AND CASE i.kind WHEN 'charge' THEN o.kind IN ('charge', 'capture') ELSE o.kind = 'refund' END
       AND i.kind IN ('charge', 'refund', 'refund_returned');
    ANALYZE found_record;
    IF (SELECT count(*) FROM incoming_line AS i WHERE i.kind IN ('charge', 'refund', 'refund_returned'))
       > (SELECT count(*) FROM found_record) THEN
        INSERT INTO found_record (line_no, operation_id)
        SELECT DISTINCT ON (i.line_no) i.line_no, o.operation_id
          FROM incoming_line AS i
          JOIN operation AS o ON o.provider_reference = i.provider_reference
         WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp
           AND CASE i.kind WHEN 'charge' THEN o.kind IN ('charge', 'capture') ELSE o.kind = 'refund' END
           AND i.kind IN ('charge', 'refund', 'refund_returned') AND i.provider_reference IS NOT NULL
           AND NOT EXISTS (SELECT FROM found_record AS f WHERE f.line_no = i.line_no)
         ORDER BY i.line_no, o.operation_id;
        ANALYZE found_record;
    END IF;

    -- 2. A batch that is issued again speaks for its records in the place of its earlier version.
    FOR earlier IN
        SELECT b.file_id, b.batch FROM settlement_batch AS b
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT DISTINCT i.batch FROM incoming_line AS i)
    LOOP
        DELETE FROM settled_record AS s USING settlement_line AS l
         WHERE l.file_id = earlier.file_id AND l.batch = earlier.batch AND s.operation_id = l.operation_id
           AND s.kind = l.kind AND s.file_id = l.file_id AND s.line_no = l.line_no;
        UPDATE reconciliation_break AS k
           SET closed_at = match_settlement_lines.at, closed_by = 'coatcheck', reason = 'the batch was issued again'
         WHERE k.closed_at IS NULL AND k.shop_id = shop AND k.mode = world AND k.provider = psp
           AND k.file_id = earlier.file_id AND k.batch = earlier.batch;
    END LOOP;

    -- 3. Each record is claimed by one line: the first of the file that names it, for its other parts too.
    INSERT INTO settled_record (operation_id, kind, file_id, line_no)
    SELECT f.operation_id, i.kind, new_file_id, min(f.line_no)
      FROM found_record AS f JOIN incoming_line AS i ON i.line_no = f.line_no
     GROUP BY f.operation_id, i.kind
    ON CONFLICT DO NOTHING;
    CREATE TEMP TABLE claimed_record ON COMMIT DROP AS
    SELECT f.line_no, f.operation_id, s.file_id AS claim_file, s.line_no AS claim_line,
           count(*) OVER record AS parts, sum(i.gross_minor) OVER record AS together_minor
      FROM found_record AS f
      JOIN incoming_line AS i ON i.line_no = f.line_no
      JOIN settled_record AS s ON s.operation_id = f.operation_id AND s.kind = i.kind
    WINDOW record AS (PARTITION BY f.operation_id, i.kind);
    ANALYZE claimed_record;

    -- 4. The verdict of each line.
    INSERT INTO settlement_line (file_id, line_no, kind, batch, reference, provider_reference, charge_reference,
                                 operation_id, occurred_at, currency, gross_minor, fee_minor, net_minor, verdict)
    SELECT new_file_id, i.line_no, i.kind, i.batch, i.reference, i.provider_reference, i.charge_reference,
           c.operation_id, i.occurred_at, i.currency, i.gross_minor, i.fee_minor, i.net_minor,
           CASE
               WHEN i.kind IN ('payout', 'fee') THEN i.kind
               WHEN i.kind NOT IN ('charge', 'refund', 'refund_returned') THEN 'unexplained'
               WHEN c.operation_id IS NULL THEN 'missing_here'
               -- Some PSPs tell of one capture in parts: the whole authorization, and back what was not taken of it.
               WHEN c.parts > 1 AND c.claim_file = new_file_id AND i.asked_minor IS NULL AND o.status = 'APPROVED'
                    AND o.currency = i.currency AND c.together_minor
                    = CASE i.kind WHEN 'refund' THEN -o.amount_minor ELSE o.amount_minor END THEN 'matched'
               WHEN (c.claim_file, c.claim_line) <> (new_file_id, i.line_no) THEN
                   CASE WHEN i.provider_reference IS NOT DISTINCT FROM CASE WHEN c.claim_file = new_file_id
                            THEN (SELECT e.provider_reference FROM incoming_line AS e WHERE e.line_no = c.claim_line)
                            ELSE (SELECT e.provider_reference FROM settlement_line AS e
                                   WHERE e.file_id = c.claim_file AND e.line_no = c.claim_line) END
                        THEN 'duplicate_line' ELSE 'duplicate_charge' END
               WHEN coalesce(i.asked_currency, i.currency) <> o.currency THEN 'currency'
               WHEN coalesce(i.asked_minor, i.gross_minor)
                    <> CASE i.kind WHEN 'refund' THEN -o.amount_minor ELSE o.amount_minor END THEN 'amount'
               WHEN NOT CASE i.kind
                        WHEN 'charge' THEN o.status = 'APPROVED'
                        WHEN 'refund' THEN o.status = 'APPROVED' OR r.status = 'FAILED' AND EXISTS (
                            SELECT FROM event AS e
                             WHERE e.subject_id = o.payment_id AND e.kind = 'refund.returned'
                               AND e.body ->> 'operation_id' = o.operation_id::text)
                        ELSE r.status = 'FAILED' END THEN 'status'
               ELSE 'matched'
           END
      FROM incoming_line AS i
      LEFT JOIN claimed_record AS c ON c.line_no = i.line_no
      LEFT JOIN operation AS o ON o.operation_id = c.operation_id
      LEFT JOIN refund AS r ON r.refund_id = o.refund_id;

    -- 5. What is not as it should be.
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, operation_id,
                                      currency, expected_minor, stated_minor, suspense_minor, detail, opened_at)
    SELECT reconciliation_id('line', new_file_id::text, l.line_no::text), shop, world, psp, l.verdict, new_file_id,
           l.line_no, l.batch, l.operation_id, l.currency, e.expected, l.gross_minor,
           CASE l.verdict WHEN 'amount' THEN l.gross_minor - e.expected ELSE l.gross_minor END,
           concat_ws(' ', l.kind, l.provider_reference, l.reference), match_settlement_lines.at
      FROM settlement_line AS l
      LEFT JOIN operation AS o ON o.operation_id = l.operation_id
     CROSS JOIN LATERAL (
           SELECT CASE l.kind WHEN 'refund' THEN -o.amount_minor ELSE o.amount_minor END AS expected) AS e
     WHERE l.file_id = new_file_id AND l.verdict NOT IN ('matched', 'payout', 'fee');

    -- 6. What was missing at the PSP and is here now was only late.
    UPDATE reconciliation_break AS k
       SET closed_at = match_settlement_lines.at, closed_by = 'coatcheck', reason = 'a later file has it'
      FROM settled_record AS s
     WHERE k.closed_at IS NULL AND k.kind = 'missing_at_psp' AND s.operation_id = k.operation_id
       AND s.file_id = new_file_id;
END;
$$;

-- What a file changes in each batch and currency, against what the books have of it: fees, payouts, and what is
-- unexplained. Notes it as had. The caller posts the differences in the same transaction.
CREATE OR REPLACE FUNCTION settle_batches(new_file_id uuid, shop uuid, world text, psp text)
RETURNS TABLE (batch text, currency text, version integer, fee_minor bigint, payout_minor bigint, unexplained_minor bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH told AS (
        SELECT l.batch, l.currency,
               sum(CASE WHEN l.kind = 'fee' THEN -l.net_minor
                        -- What a dispute has booked as its fee (match_dispute_lines) is not booked again as the PSP's.
                        WHEN l.kind IN ('chargeback', 'chargeback_reversed') THEN l.fee_minor - coalesce((
                            SELECT m.fee_minor FROM settled_movement AS s JOIN dispute_movement AS m USING (movement_id)
                             WHERE s.file_id = l.file_id AND s.line_no = l.line_no), 0)
                        ELSE l.fee_minor END)::bigint AS fee,
               coalesce(sum(-l.net_minor) FILTER (WHERE l.kind = 'payout'), 0)::bigint AS payout
          FROM settlement_line AS l
         WHERE l.file_id = new_file_id
         GROUP BY l.batch, l.currency
    ), strange AS (
        SELECT k.batch, k.currency, sum(k.suspense_minor)::bigint AS unexplained
          FROM reconciliation_break AS k
         WHERE k.file_id = new_file_id AND k.batch IS NOT NULL AND k.suspense_minor <> 0
         GROUP BY k.batch, k.currency
    ), now_is AS (
        SELECT t.batch, t.currency, t.fee, t.payout, coalesce(s.unexplained, 0) AS unexplained
          FROM told AS t LEFT JOIN strange AS s ON s.batch = t.batch AND s.currency = t.currency
    ), before AS (
        SELECT b.batch, b.currency, b.fee_minor AS fee, b.payout_minor AS payout, b.unexplained_minor AS unexplained
          FROM settlement_batch AS b
         WHERE b.shop_id = shop AND b.mode = world AND b.provider = psp
           AND b.batch IN (SELECT t.batch FROM told AS t)
    ), kept AS (
        INSERT INTO settlement_batch AS b (shop_id, mode, provider, batch, currency, version, file_id, fee_minor,
                                           payout_minor, unexplained_minor)
        SELECT shop, world, psp, n.batch, n.currency, 1, new_file_id, n.fee, n.payout, n.unexplained FROM now_is AS n
        ON CONFLICT ON CONSTRAINT settlement_batch_pkey DO UPDATE
           SET version = b.version + 1, file_id = excluded.file_id, fee_minor = excluded.fee_minor,
               payout_minor = excluded.payout_minor, unexplained_minor = excluded.unexplained_minor
     RETURNING b.batch, b.currency, b.version
    )
    SELECT n.batch, n.currency, k.version, n.fee - coalesce(b.fee, 0), n.payout - coalesce(b.payout, 0),
           n.unexplained - coalesce(b.unexplained, 0)
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

-- What we have and no file has: approved before a time by which every file must have told of it.
CREATE OR REPLACE FUNCTION break_unsettled(at timestamptz, shop uuid, world text, psp text, before timestamptz)
RETURNS integer
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH opened AS (
        INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, operation_id, currency, expected_minor,
                                          stated_minor, suspense_minor, detail, opened_at)
        SELECT reconciliation_id('unsettled', o.operation_id::text), shop, world, psp, 'missing_at_psp', o.operation_id,
               o.currency, CASE o.kind WHEN 'refund' THEN -o.amount_minor ELSE o.amount_minor END, NULL, 0,
               concat_ws(' ', o.kind, o.provider_reference), break_unsettled.at
          FROM operation AS o
         WHERE o.shop_id = shop AND o.mode = world AND o.provider = psp AND o.status = 'APPROVED'
           AND o.kind IN ('charge', 'capture', 'refund') AND o.decided_at < before
           AND NOT EXISTS (SELECT FROM settled_record AS s
                            WHERE s.operation_id = o.operation_id
                              AND s.kind = CASE o.kind WHEN 'refund' THEN 'refund' ELSE 'charge' END)
        ON CONFLICT (break_id) DO NOTHING
     RETURNING 1
    )
    SELECT count(*)::integer FROM opened;
$$;

-- Close breaks, each once; returns those that were open, for the caller to take what stands in suspense back out in the
-- same transaction. Locks: the breaks.
CREATE OR REPLACE FUNCTION close_breaks(at timestamptz, wanted uuid[], who text, why text)
RETURNS SETOF reconciliation_break
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    UPDATE reconciliation_break AS k SET closed_at = at, closed_by = who, reason = why
     WHERE k.break_id = ANY (wanted) AND k.closed_at IS NULL
 RETURNING k.*;
$$;

REVOKE ALL ON FUNCTION close_breaks, reconciliation_id, take_settlement_file, match_settlement_lines, settle_batches,
    break_control_totals, break_unsettled FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close_breaks, take_settlement_file, match_settlement_lines, settle_batches, break_control_totals,
    break_unsettled TO coatcheck_app;
