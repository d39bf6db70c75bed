-- A bank's statement against the payouts that PSPs say they have sent. The entries wait in the session's own tables
-- incoming_entry and incoming_token: a token is a word of what the entry says, which may be a payout's name.

-- Find each entry's payout, let each payout be confirmed once, and write the entries down with their verdict. What is no
-- payout that we wait for is a break. Returns what is to be posted: per account and currency, for whose payout, how much.
CREATE OR REPLACE FUNCTION match_bank_lines(at timestamptz, new_file_id uuid, shop uuid, world text)
RETURNS TABLE (account text, currency text, provider text, confirmed_minor bigint, strange_minor bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    -- A payout is named by its batch, or by what the PSP calls the payout itself. An entry that names several is none.
    CREATE TEMP TABLE named_payout ON COMMIT DROP AS
    WITH waiting AS (
        SELECT b.provider, b.batch, b.currency, b.payout_minor, n.name
          FROM settlement_batch AS b
         CROSS JOIN LATERAL (
               SELECT b.batch AS name
                UNION
               SELECT l.provider_reference FROM settlement_line AS l
                WHERE l.file_id = b.file_id AND l.batch = b.batch AND l.kind = 'payout' AND l.currency = b.currency
                  AND l.provider_reference IS NOT NULL) AS n
         WHERE b.shop_id = shop AND b.mode = world AND b.payout_minor <> 0
           AND EXISTS (SELECT FROM incoming_token AS t WHERE t.token = n.name)
    )
    SELECT e.line_no, min(w.provider) AS provider, min(w.batch) AS batch, min(w.payout_minor) AS payout_minor
      FROM incoming_entry AS e
      JOIN incoming_token AS t ON t.line_no = e.line_no
      JOIN waiting AS w ON w.name = t.token AND w.currency = e.currency
     GROUP BY e.line_no
    HAVING count(DISTINCT (w.provider, w.batch)) = 1;

    INSERT INTO confirmed_payout (shop_id, mode, provider, batch, currency, file_id, line_no)
    SELECT shop, world, p.provider, p.batch, e.currency, new_file_id, min(e.line_no)
      FROM named_payout AS p JOIN incoming_entry AS e ON e.line_no = p.line_no
     WHERE p.payout_minor = e.amount_minor
     GROUP BY p.provider, p.batch, e.currency
    ON CONFLICT DO NOTHING;

    INSERT INTO bank_line (file_id, line_no, statement, account, booked_on, currency, amount_minor, bank_reference,
                           reference_list, provider, batch, verdict)
    SELECT new_file_id, e.line_no, e.statement, e.account, e.booked_on, e.currency, e.amount_minor, e.bank_reference,
           e.reference_list, p.provider, p.batch,
           CASE WHEN p.line_no IS NULL THEN 'unexplained'
                WHEN p.payout_minor <> e.amount_minor THEN 'amount'
                WHEN (c.file_id, c.line_no) IS DISTINCT FROM (new_file_id, e.line_no) THEN 'duplicate_line'
                ELSE 'matched' END
      FROM incoming_entry AS e
      LEFT JOIN named_payout AS p ON p.line_no = e.line_no
      LEFT JOIN confirmed_payout AS c ON c.shop_id = shop AND c.mode = world AND c.provider = p.provider
                                     AND c.batch = p.batch AND c.currency = e.currency;

    INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, currency,
                                      expected_minor, stated_minor, suspense_minor, detail, opened_at)
    SELECT reconciliation_id('line', new_file_id::text, l.line_no::text), shop, world, 'bank', l.verdict, new_file_id,
           l.line_no, l.batch, l.currency, p.payout_minor, l.amount_minor, l.amount_minor,
           concat_ws(' ', l.account, l.bank_reference, array_to_string(l.reference_list, ' ')), match_bank_lines.at
      FROM bank_line AS l LEFT JOIN named_payout AS p ON p.line_no = l.line_no
     WHERE l.file_id = new_file_id AND l.verdict <> 'matched';

    RETURN QUERY
    SELECT l.account, l.currency, CASE WHEN l.verdict = 'matched' THEN l.provider END,
           coalesce(sum(l.amount_minor) FILTER (WHERE l.verdict = 'matched'), 0)::bigint,
           coalesce(sum(l.amount_minor) FILTER (WHERE l.verdict <> 'matched'), 0)::bigint
      FROM bank_line AS l
     WHERE l.file_id = new_file_id
     GROUP BY 1, 2, 3
     ORDER BY 1, 2, 3;
END;
$$;

REVOKE ALL ON FUNCTION match_bank_lines FROM PUBLIC;
GRANT EXECUTE ON FUNCTION match_bank_lines TO coatcheck_app;
