-- Lines that agree with the books, and are unusual all the same: another fee than the PSP's schedule has, or settled late.
-- Such a break moves no money: the fee was kept, and the line is settled.

-- Compare a file that was just matched with what is usual of its PSP. Fees: one for each record, over all the lines that
-- tell of it, where its currency has a schedule (`rates_ppm` millionths and `fixed_minor` on top) and nothing was
-- converted. Lateness: from our decision to the last movement of the batch; nothing where `usual_delay` is NULL.
CREATE OR REPLACE FUNCTION break_unusual(
    at timestamptz, new_file_id uuid, shop uuid, world text, psp text, currencies text[], rates_ppm bigint[],
    fixed_minor bigint[], tolerance_minor bigint, usual_delay interval
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET work_mem = '256MB'
AS $$
BEGIN
    IF cardinality(currencies) > 0 THEN
        INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, operation_id,
                                          currency, expected_minor, stated_minor, suspense_minor, detail, opened_at)
        SELECT reconciliation_id('fee', new_file_id::text, r.line_no::text), shop, world, psp, 'fee', new_file_id, r.line_no,
               r.batch, r.operation_id, r.currency, e.expected, r.fee_minor, 0,
               concat_ws(' ', 'fee of charge', r.provider_reference, r.reference), break_unusual.at
          FROM (SELECT l.operation_id, l.currency, s.line_no,  -- that of the line which speaks for the record
                       (array_agg(l.batch ORDER BY l.line_no <> s.line_no))[1] AS batch,
                       (array_agg(l.provider_reference ORDER BY l.line_no <> s.line_no))[1] AS provider_reference,
                       (array_agg(l.reference ORDER BY l.line_no <> s.line_no))[1] AS reference,
                       sum(l.gross_minor) AS gross_minor, sum(l.fee_minor)::bigint AS fee_minor
                  FROM settlement_line AS l
                  JOIN settled_record AS s ON s.operation_id = l.operation_id AND s.kind = l.kind AND s.file_id = l.file_id
                 WHERE l.file_id = new_file_id AND l.kind = 'charge' AND l.verdict = 'matched'
                   AND l.currency = ANY (currencies)
                 GROUP BY l.operation_id, l.currency, s.line_no) AS r
          JOIN unnest(currencies, rates_ppm, break_unusual.fixed_minor) AS f (currency, rate_ppm, fixed)
            ON f.currency = r.currency
          JOIN operation AS o ON o.operation_id = r.operation_id AND o.currency = r.currency
         CROSS JOIN LATERAL (SELECT round(r.gross_minor * f.rate_ppm / 1000000)::bigint + f.fixed AS expected) AS e
         WHERE abs(r.fee_minor - e.expected) > tolerance_minor;
    END IF;
    IF usual_delay IS NOT NULL THEN
        INSERT INTO reconciliation_break (break_id, shop_id, mode, provider, kind, file_id, line_no, batch, operation_id,
                                          currency, stated_minor, suspense_minor, detail, opened_at)
        SELECT reconciliation_id('late', new_file_id::text, l.line_no::text), shop, world, psp, 'late', new_file_id,
               l.line_no, l.batch, l.operation_id, l.currency, l.gross_minor, 0,
               concat_ws(' ', l.kind, l.provider_reference, l.reference,
                         format('settled %s days after it was decided, usual are %s', w.days,
                                (extract(epoch FROM usual_delay) / 86400)::integer)),
               break_unusual.at
          FROM settlement_line AS l
          JOIN settled_record AS s ON s.operation_id = l.operation_id AND s.file_id = l.file_id AND s.line_no = l.line_no
          JOIN operation AS o ON o.operation_id = l.operation_id
          JOIN (SELECT b.batch, max(b.occurred_at) AS told_at FROM settlement_line AS b
                 WHERE b.file_id = new_file_id GROUP BY b.batch) AS t ON t.batch = l.batch
         CROSS JOIN LATERAL (SELECT floor(extract(epoch FROM t.told_at - o.decided_at) / 86400)::integer AS days) AS w
         WHERE l.file_id = new_file_id AND l.verdict = 'matched' AND l.kind IN ('charge', 'refund')
           AND t.told_at - o.decided_at > usual_delay;
    END IF;
END;
$$;

REVOKE ALL ON FUNCTION break_unusual FROM PUBLIC;
GRANT EXECUTE ON FUNCTION break_unusual TO coatcheck_app;
