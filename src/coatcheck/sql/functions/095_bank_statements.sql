-- A bank's statement against the payouts that PSPs say they have sent, and against those to sellers that left our account
-- there. Which of the two comes first makes no difference: an
-- entry that is no payout yet is looked at again whenever a file may have told of more. The caller holds the bank's files
-- of the shop and mode (lock_reconciliation), so that all that is compared is compared one after the other.

-- Let entries claim the payouts that they name: those lines of a file that were just taken, and those of earlier ones whose
-- break is open and was not explained to a second person. A word of an entry names a payout, or a batch: what is
-- left of its payouts. Never by the amount alone, and each entry and payout once:
--   1. one entry for all that it names, if that is its amount;
--   2. where there is none, all entries that name the same, if that is their sum.
-- Of several that could, the first that came. Leaves open_entry and named_payout behind.
CREATE OR REPLACE FUNCTION claim_payouts(at timestamptz, new_file_id uuid, new_lines integer[], shop uuid, world text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    matched bigint;
BEGIN
    CREATE TEMP TABLE open_entry ON COMMIT DROP AS
    SELECT row_number() OVER (ORDER BY f.received_at, l.file_id, l.line_no) AS place, l.file_id, l.line_no, l.currency,
           l.amount_minor, l.reference_list || l.bank_reference AS texts, l.named_ids
      FROM (SELECT new_file_id AS file_id, unnest(new_lines) AS line_no
             UNION ALL
            SELECT k.file_id, k.line_no
              FROM reconciliation_break AS k
             WHERE k.shop_id = shop AND k.mode = world AND k.provider = 'bank' AND k.closed_at IS NULL
               AND k.kind IN ('unexplained', 'amount', 'duplicate_line')
               AND NOT EXISTS (SELECT FROM break_resolution AS r
                                WHERE r.break_id = k.break_id AND r.confirmed_at IS NULL
                                  AND r.expires_at > claim_payouts.at)) AS w
      JOIN bank_line AS l ON l.file_id = w.file_id AND l.line_no = w.line_no
      JOIN settlement_file AS f ON f.file_id = l.file_id
     WHERE NOT EXISTS (SELECT FROM bank_statement AS s
                        WHERE (s.file_id, s.account, s.currency, s.statement)
                              = (l.file_id, l.account, l.currency, l.statement)
                          AND s.replaced_by IS NOT NULL);

    -- All that a word names. A payout has the name that the PSP gave it, or none, and then only its batch's.
    CREATE TEMP TABLE called_payout ON COMMIT DROP AS
    WITH word AS MATERIALIZED (
        SELECT DISTINCT e.place, e.currency, (w.word)[1] AS name
          FROM open_entry AS e
         CROSS JOIN LATERAL unnest(e.texts) AS t (text)
         CROSS JOIN LATERAL regexp_matches(t.text, '[A-Za-z0-9_-]{3,64}', 'g') AS w (word)
    ), psp_payout AS MATERIALIZED (
        SELECT 'psp_payout' AS kind, b.provider, b.batch, b.currency, coalesce(l.provider_reference, '') AS payout,
               sum(-l.net_minor)::bigint AS minor
          FROM settlement_batch AS b
          JOIN settlement_line AS l ON l.file_id = b.file_id AND l.batch = b.batch AND l.currency = b.currency
                                   AND l.kind = 'payout'
         WHERE b.shop_id = shop AND b.mode = world AND EXISTS (SELECT FROM word)
         GROUP BY 1, 2, 3, 4, 5
        HAVING sum(l.net_minor) <> 0
    ), seller_payout AS (
        -- One to a seller is called by its own id, its operation's, the provider's, or with all of its run by the run's.
        SELECT e.place, n.id AS payout_id, true AS by_name FROM open_entry AS e CROSS JOIN unnest(e.named_ids) AS n (id)
         UNION ALL
        SELECT e.place, o.order_id, true
          FROM open_entry AS e CROSS JOIN unnest(e.named_ids) AS n (id)
          JOIN operation AS o ON o.operation_id = n.id AND o.kind = 'payout'
         UNION ALL
        SELECT w.place, p.payout_id, true FROM word AS w JOIN payout AS p ON p.provider_reference = w.name
         UNION ALL
        SELECT e.place, i.payout_id, false
          FROM open_entry AS e CROSS JOIN unnest(e.named_ids) AS n (id)
          JOIN payout_run_item AS i ON i.run_id = n.id
    ), named AS (
        SELECT w.place, p.*, true AS by_name
          FROM word AS w JOIN psp_payout AS p ON p.payout = w.name AND p.currency = w.currency
         UNION ALL
        SELECT w.place, p.*, false
          FROM word AS w JOIN psp_payout AS p ON p.batch = w.name AND p.currency = w.currency
         UNION ALL
        SELECT s.place, k.kind, p.provider, coalesce(p.run_id, p.payout_id)::text, p.currency::text, p.payout_id::text,
               told_minor_of(k.kind, p.amount_minor), s.by_name
          FROM seller_payout AS s
          JOIN open_entry AS e ON e.place = s.place
          JOIN payout AS p ON p.payout_id = s.payout_id AND p.shop_id = shop AND p.mode = world
                          AND p.currency::text = e.currency AND NOT paid_from_balance(p.payout_id)
          JOIN (VALUES ('seller_payout', '{PAID,RETURNED}'::text[]), ('seller_payout_returned', '{RETURNED}'))
               AS k (kind, statuses)
            ON p.status = ANY (k.statuses) AND (k.kind = 'seller_payout') = (e.amount_minor < 0)
    )
    SELECT n.place, n.kind, n.provider, n.batch, n.currency, n.payout, n.minor, bool_or(n.by_name) AS by_name,
           -- A batch that is issued again with other names for what a bank has confirmed: nothing of it is waited for.
           n.kind = 'psp_payout' AND EXISTS (
               SELECT FROM confirmed_payout AS c
                WHERE (c.shop_id, c.mode, c.kind, c.provider, c.batch, c.currency)
                      = (shop, world, n.kind, n.provider, n.batch, n.currency)
                  AND NOT EXISTS (SELECT FROM psp_payout AS p
                                   WHERE (p.provider, p.batch, p.currency, p.payout)
                                         = (c.provider, c.batch, c.currency, c.payout))) AS is_strange
      FROM named AS n
     GROUP BY 1, 2, 3, 4, 5, 6, 7;
    CREATE TEMP TABLE named_payout (
        place bigint, kind text, provider text, batch text, currency text, payout text, minor bigint, is_confirmed boolean
    ) ON COMMIT DROP;

    LOOP
        -- Whoever names a payout by its name does not mean the rest of its batch.
        DELETE FROM named_payout;
        INSERT INTO named_payout
        SELECT h.place, h.kind, h.provider, h.batch, h.currency, h.payout, h.minor, h.is_confirmed
          FROM (SELECT n.*, bool_or(n.by_name) OVER of_batch AS is_exact, bool_and(n.is_confirmed) OVER of_batch AS is_over,
                       min(n.provider) OVER of_entry <> max(n.provider) OVER of_entry
                       OR min(n.kind) OVER of_entry <> max(n.kind) OVER of_entry AS is_unclear
                  FROM (SELECT g.*, g.is_strange OR c.match_id IS NOT NULL AS is_confirmed
                          FROM called_payout AS g
                          LEFT JOIN confirmed_payout AS c
                            ON (c.shop_id, c.mode, c.kind, c.provider, c.batch, c.currency, c.payout)
                               = (shop, world, g.kind, g.provider, g.batch, g.currency, g.payout)) AS n
                WINDOW of_batch AS (PARTITION BY n.place, n.provider, n.batch),
                       of_entry AS (PARTITION BY n.place)) AS h
         WHERE NOT h.is_unclear AND (h.by_name OR NOT h.is_exact AND (h.is_over OR NOT h.is_confirmed));

        WITH told AS (
            SELECT n.place, n.currency, e.amount_minor, sum(n.minor) AS due_minor,
                   array_agg(json_build_array(n.kind, n.provider, n.batch, n.payout)::text
                             ORDER BY n.kind, n.provider, n.batch, n.payout) AS names
              FROM named_payout AS n JOIN open_entry AS e ON e.place = n.place
             WHERE NOT EXISTS (SELECT FROM matched_entry AS m WHERE m.file_id = e.file_id AND m.line_no = e.line_no)
             GROUP BY n.place, n.currency, e.amount_minor
            HAVING NOT bool_or(n.is_confirmed)
        ), alone AS (
            SELECT t.place, t.place AS first_place FROM told AS t WHERE t.amount_minor = t.due_minor
        ), candidate AS (
            SELECT a.place, a.first_place FROM alone AS a
             UNION ALL
            SELECT g.place, g.first_place
              FROM (SELECT t.place, min(t.place) OVER same AS first_place, sum(t.amount_minor) OVER same AS amount_minor,
                           t.due_minor
                      FROM told AS t
                    WINDOW same AS (PARTITION BY t.names, t.currency)) AS g
             WHERE g.amount_minor = g.due_minor AND NOT EXISTS (SELECT FROM alone)
        ), wanted AS (
            SELECT n.*, min(n.place) OVER (PARTITION BY n.kind, n.provider, n.batch, n.currency, n.payout) AS earliest
              FROM named_payout AS n WHERE n.place IN (SELECT c.first_place FROM candidate AS c)
        ), match AS (
            SELECT w.place, reconciliation_id('match', e.file_id::text, e.line_no::text) AS match_id
              FROM wanted AS w JOIN open_entry AS e ON e.place = w.place
             GROUP BY w.place, e.file_id, e.line_no
            HAVING bool_and(w.earliest = w.place)
        ), confirmed AS (
            INSERT INTO confirmed_payout (shop_id, mode, kind, provider, batch, currency, payout, amount_minor, match_id)
            SELECT shop, world, w.kind, w.provider, w.batch, w.currency, w.payout, w.minor, m.match_id
              FROM match AS m JOIN wanted AS w ON w.place = m.place
        )
        INSERT INTO matched_entry (file_id, line_no, match_id)
        SELECT e.file_id, e.line_no, m.match_id
          FROM match AS m
          JOIN candidate AS c ON c.first_place = m.place
          JOIN open_entry AS e ON e.place = c.place;
        GET DIAGNOSTICS matched = ROW_COUNT;
        EXIT WHEN matched = 0;
    END LOOP;
END;
$$;

-- The breaks that are over: their entries have their payouts by now. The caller closes them in the same transaction, and
-- moves their money from suspense to where those payouts stand.
CREATE OR REPLACE FUNCTION breaks_that_are_payouts(shop uuid, world text)
RETURNS TABLE (break_id uuid, kind text, provider text, reason text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT k.break_id, min(c.kind), min(c.provider),
           'a payout of ' || min(c.provider)
           || CASE min(c.kind) WHEN 'psp_payout' THEN ' that was told of later: '
                               WHEN 'seller_payout' THEN ' to a seller, known since: '
                               ELSE ' to a seller that came back, known since: ' END
           || left(string_agg(DISTINCT coalesce(p.provider_reference, nullif(c.payout, ''), c.batch), ', '), 400)
      FROM reconciliation_break AS k
      JOIN matched_entry AS m ON m.file_id = k.file_id AND m.line_no = k.line_no
      JOIN confirmed_payout AS c ON c.match_id = m.match_id
      LEFT JOIN payout AS p ON c.kind <> 'psp_payout' AND p.payout_id::text = c.payout
     WHERE k.shop_id = shop AND k.mode = world AND k.provider = 'bank' AND k.closed_at IS NULL
       AND k.kind IN ('unexplained', 'amount', 'duplicate_line')
     GROUP BY k.break_id
     ORDER BY 2, 3, 4, 1;
$$;

-- Look again at the entries that are no payouts yet, now that more payouts may be known. Returns the breaks that are over, as
-- breaks_that_are_payouts. Idempotent. Locks: the bank's files of the shop and mode.
CREATE OR REPLACE FUNCTION match_open_entries(at timestamptz, shop uuid, world text)
RETURNS TABLE (break_id uuid, kind text, provider text, reason text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    PERFORM lock_reconciliation(shop, world, 'bank');
    PERFORM claim_payouts(match_open_entries.at, NULL, '{}', shop, world);
    RETURN QUERY SELECT * FROM breaks_that_are_payouts(shop, world);
END;
$$;

-- A statement that is issued again takes the place of its earlier version, entry by entry. One that is there again keeps what it
-- is: its payout, its break, and what people have said of it. One that is gone gives its payout back. Returns what is to be
-- posted for those that are gone, as match_bank_lines, but what stands in suspense for an open break (gone_breaks).
-- The lines that are there again are left behind in kept_entry.
CREATE OR REPLACE FUNCTION replace_statements(at timestamptz, new_file_id uuid, shop uuid, world text)
RETURNS TABLE (
    account text, currency text, kind text, provider text, confirmed_minor bigint, strange_minor bigint
)
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    CREATE TEMP TABLE kept_entry (file_id uuid, old_line_no integer, line_no integer) ON COMMIT DROP;
    CREATE TEMP TABLE told_statement ON COMMIT DROP AS
    SELECT e.account, e.currency, e.statement, min(e.booked_on) AS first_on, max(e.booked_on) AS last_on,
           (array_agg(e.opening_minor ORDER BY e.line_no))[1] AS opening_minor
      FROM incoming_entry AS e GROUP BY 1, 2, 3;
    -- All pages of a statement of MT940 stand in one file; there may be fewer of them the second time.
    CREATE TEMP TABLE earlier_statement ON COMMIT DROP AS
    WITH same AS (
        SELECT s.*
          FROM told_statement AS t
          JOIN bank_statement AS s
            ON (s.account, s.currency, s.statement) = (t.account, t.currency, t.statement)
           AND s.first_on <= t.last_on AND s.last_on >= t.first_on
           AND s.opening_minor IS NOT DISTINCT FROM t.opening_minor
         WHERE s.shop_id = shop AND s.mode = world AND s.replaced_by IS NULL
    )
    SELECT s.* FROM same AS s
     UNION
    SELECT p.*
      FROM same AS s
      JOIN bank_statement AS p
        ON (p.file_id, p.account, p.currency) = (s.file_id, s.account, s.currency) AND p.replaced_by IS NULL
       AND substring(p.statement FROM '^([0-9]+)/[0-9]+ of ') = substring(s.statement FROM '^([0-9]+)/[0-9]+ of ');
    INSERT INTO bank_statement (file_id, account, currency, statement, shop_id, mode, first_on, last_on, opening_minor,
                                version)
    SELECT new_file_id, t.account, t.currency, t.statement, shop, world, t.first_on, t.last_on, t.opening_minor,
           1 + coalesce((SELECT max(s.version) FROM earlier_statement AS s
                          WHERE (s.account, s.currency, s.statement) = (t.account, t.currency, t.statement)), 0)
      FROM told_statement AS t;
    IF NOT EXISTS (SELECT FROM earlier_statement) THEN
        RETURN;  -- as nearly always
    END IF;
    UPDATE bank_statement AS s SET replaced_by = new_file_id
      FROM earlier_statement AS e
     WHERE (s.file_id, s.account, s.currency, s.statement) = (e.file_id, e.account, e.currency, e.statement);

    -- Where entries are alike to the letter, those that are explained are kept first.
    CREATE TEMP TABLE earlier_entry ON COMMIT DROP AS
    SELECT l.*, m.match_id, k.closed_at,
           row_number() OVER (PARTITION BY l.account, l.currency, l.booked_on, l.amount_minor, l.bank_reference,
                                           l.reference_list
                                  ORDER BY m.match_id IS NULL, k.closed_at IS NULL, l.file_id, l.line_no) AS n
      FROM earlier_statement AS s
      JOIN bank_line AS l ON (l.file_id, l.account, l.currency, l.statement)
                             = (s.file_id, s.account, s.currency, s.statement)
      LEFT JOIN matched_entry AS m ON m.file_id = l.file_id AND m.line_no = l.line_no
      LEFT JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no;
    INSERT INTO kept_entry
    SELECT o.file_id, o.line_no, l.line_no
      FROM (SELECT n.*, row_number() OVER (PARTITION BY n.account, n.currency, n.booked_on, n.amount_minor,
                                                        n.bank_reference, n.reference_list ORDER BY n.line_no) AS n
              FROM bank_line AS n WHERE n.file_id = new_file_id) AS l
      JOIN earlier_entry AS o
        ON (l.account, l.currency, l.booked_on, l.amount_minor, l.reference_list, l.n)
           = (o.account, o.currency, o.booked_on, o.amount_minor, o.reference_list, o.n)
       AND l.bank_reference IS NOT DISTINCT FROM o.bank_reference;
    UPDATE bank_line AS l SET verdict = o.verdict, kind = o.kind, provider = o.provider, batch = o.batch
      FROM kept_entry AS k JOIN bank_line AS o ON o.file_id = k.file_id AND o.line_no = k.old_line_no
     WHERE l.file_id = new_file_id AND l.line_no = k.line_no;
    UPDATE matched_entry AS m SET file_id = new_file_id, line_no = k.line_no
      FROM kept_entry AS k WHERE m.file_id = k.file_id AND m.line_no = k.old_line_no;
    UPDATE reconciliation_break AS b SET file_id = new_file_id, line_no = k.line_no, moved = b.moved + 1
      FROM kept_entry AS k WHERE b.file_id = k.file_id AND b.line_no = k.old_line_no;

    -- Of what is gone, a payout is given back whole or not at all; what people have explained they explain anew.
    CREATE TEMP TABLE gone_entry ON COMMIT DROP AS
    SELECT g.account, g.currency, g.file_id, g.line_no, g.amount_minor, g.match_id, g.closed_at, c.kind, c.provider
      FROM (SELECT o.*, count(*) OVER (PARTITION BY o.match_id) AS of_match
              FROM earlier_entry AS o
             WHERE NOT EXISTS (SELECT FROM kept_entry AS k
                                WHERE k.file_id = o.file_id AND k.old_line_no = o.line_no)) AS g
      LEFT JOIN (SELECT p.match_id, min(p.kind) AS kind, min(p.provider) AS provider FROM confirmed_payout AS p
                  GROUP BY p.match_id) AS c
        ON c.match_id = g.match_id
       AND g.of_match = (SELECT count(*) FROM matched_entry AS m WHERE m.match_id = g.match_id);
    DELETE FROM confirmed_payout AS c USING gone_entry AS g WHERE g.provider IS NOT NULL AND c.match_id = g.match_id;
    DELETE FROM matched_entry AS m USING gone_entry AS g WHERE g.provider IS NOT NULL AND m.match_id = g.match_id;
    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, currency, stated_minor,
                                      suspense_minor, detail, opened_at)
    SELECT reconciliation_id('gone', new_file_id::text, g.file_id::text, g.line_no::text), shop, world, 'bank',
           'unexplained', new_file_id, g.currency, -g.amount_minor, -g.amount_minor,
           concat_ws(' ', 'explained, and gone from the statement that was issued again:', g.account, l.bank_reference,
                     array_to_string(l.reference_list, ' ')), replace_statements.at
      FROM gone_entry AS g JOIN bank_line AS l ON l.file_id = g.file_id AND l.line_no = g.line_no
     WHERE g.provider IS NULL AND (g.match_id IS NOT NULL OR g.closed_at IS NOT NULL);

    RETURN QUERY
    SELECT g.account, g.currency, g.kind, g.provider,
           coalesce(-sum(g.amount_minor) FILTER (WHERE g.provider IS NOT NULL), 0)::bigint,
           coalesce(-sum(g.amount_minor) FILTER (WHERE g.provider IS NULL), 0)::bigint
      FROM gone_entry AS g
     WHERE g.match_id IS NOT NULL OR g.closed_at IS NOT NULL
     GROUP BY 1, 2, 3, 4;
END;
$$;

-- The breaks of entries that are gone, and of totals, since a file that was just taken: the caller closes them in the same transaction, and
-- their money goes back from suspense to the bank.
CREATE OR REPLACE FUNCTION gone_breaks(new_file_id uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT k.break_id
      FROM bank_statement AS s
      JOIN bank_line AS l ON (l.file_id, l.account, l.currency, l.statement)
                             = (s.file_id, s.account, s.currency, s.statement)
      JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no
     WHERE s.replaced_by = new_file_id AND k.closed_at IS NULL
     UNION
    SELECT k.break_id
      FROM bank_statement AS s
      JOIN reconciliation_break AS k ON k.file_id = s.file_id AND k.batch = s.statement AND k.kind = 'control_total'
     WHERE s.replaced_by = new_file_id AND k.closed_at IS NULL
     ORDER BY 1;
$$;

-- Write down the entries of a statement that was just taken, which wait in the session's own table incoming_entry, with their
-- verdict. What is no payout that we wait for is a break. Returns what is to be posted: per account and currency, for whose
-- payout, how much. Breaks of earlier entries that are over now: breaks_that_are_payouts, gone_breaks.
CREATE OR REPLACE FUNCTION match_bank_lines(at timestamptz, new_file_id uuid, shop uuid, world text)
RETURNS TABLE (
    account text, currency text, kind text, provider text, confirmed_minor bigint, strange_minor bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO bank_line (file_id, line_no, statement, account, booked_on, currency, amount_minor, bank_reference,
                           reference_list, named_ids, verdict)
    SELECT new_file_id, e.line_no, e.statement, e.account, e.booked_on, e.currency, e.amount_minor, e.bank_reference,
           e.reference_list, e.named_ids, 'unexplained'
      FROM incoming_entry AS e;
    CREATE TEMP TABLE reversal ON COMMIT DROP AS
    SELECT * FROM replace_statements(match_bank_lines.at, new_file_id, shop, world);
    CREATE TEMP TABLE new_entry ON COMMIT DROP AS
    SELECT e.line_no FROM incoming_entry AS e WHERE e.line_no NOT IN (SELECT k.line_no FROM kept_entry AS k);
    PERFORM claim_payouts(match_bank_lines.at, new_file_id, ARRAY(SELECT e.line_no FROM new_entry AS e), shop, world);

    UPDATE bank_line AS l
       SET provider = n.provider, kind = n.kind, batch = n.batch,
           verdict = CASE WHEN n.is_matched THEN 'matched'
                          WHEN n.due_minor <> l.amount_minor THEN 'amount'
                          ELSE 'duplicate_line' END
      FROM (SELECT e.line_no, true AS is_matched, min(c.provider) AS provider, min(c.kind) AS kind,
                   CASE WHEN count(DISTINCT c.batch) = 1 THEN min(c.batch) END AS batch, NULL AS due_minor
              FROM new_entry AS e
              JOIN matched_entry AS m ON m.file_id = new_file_id AND m.line_no = e.line_no
              JOIN confirmed_payout AS c ON c.match_id = m.match_id
             GROUP BY e.line_no
             UNION ALL
            SELECT e.line_no, false, min(p.provider), min(p.kind),
                   CASE WHEN count(DISTINCT p.batch) = 1 THEN min(p.batch) END, sum(p.minor)
              FROM open_entry AS e JOIN named_payout AS p ON p.place = e.place
             WHERE e.file_id = new_file_id
               AND NOT EXISTS (SELECT FROM matched_entry AS m WHERE m.file_id = new_file_id AND m.line_no = e.line_no)
             GROUP BY e.line_no) AS n
     WHERE l.file_id = new_file_id AND l.line_no = n.line_no AND n.line_no IN (SELECT e.line_no FROM new_entry AS e);

    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, currency,
                                      expected_minor, stated_minor, suspense_minor, detail, opened_at)
    SELECT reconciliation_id('line', new_file_id::text, l.line_no::text), shop, world, 'bank', l.verdict, new_file_id,
           l.line_no, l.batch, l.currency, p.due_minor, l.amount_minor, l.amount_minor,
           concat_ws(' ', l.account, l.bank_reference, array_to_string(l.reference_list, ' ')), match_bank_lines.at
      FROM new_entry AS e
      JOIN bank_line AS l ON l.file_id = new_file_id AND l.line_no = e.line_no
      LEFT JOIN (SELECT e.line_no, sum(n.minor)::bigint AS due_minor
                   FROM open_entry AS e JOIN named_payout AS n ON n.place = e.place
                  WHERE e.file_id = new_file_id GROUP BY e.line_no) AS p ON p.line_no = l.line_no
     WHERE l.verdict <> 'matched';

    RETURN QUERY
    SELECT p.account, p.currency, p.kind, p.provider, sum(p.confirmed_minor)::bigint, sum(p.strange_minor)::bigint
      FROM (SELECT l.account, l.currency, CASE WHEN l.verdict = 'matched' THEN l.kind END AS kind,
                   CASE WHEN l.verdict = 'matched' THEN l.provider END AS provider,
                   CASE WHEN l.verdict = 'matched' THEN l.amount_minor ELSE 0 END AS confirmed_minor,
                   CASE WHEN l.verdict <> 'matched' THEN l.amount_minor ELSE 0 END AS strange_minor
              FROM new_entry AS e JOIN bank_line AS l ON l.file_id = new_file_id AND l.line_no = e.line_no
             UNION ALL
            SELECT r.account, r.currency, r.kind, r.provider, r.confirmed_minor, r.strange_minor FROM reversal AS r) AS p
     GROUP BY 1, 2, 3, 4
     ORDER BY 1, 2, 3, 4;
END;
$$;

REVOKE ALL ON FUNCTION breaks_that_are_payouts, claim_payouts, gone_breaks, match_bank_lines, match_open_entries,
    replace_statements FROM PUBLIC;
GRANT EXECUTE ON FUNCTION breaks_that_are_payouts, gone_breaks, match_bank_lines, match_open_entries TO coatcheck_app;
