-- T2: one commit per fact. A batch of the PSP's decisions becomes outcomes, order statuses, ledger transfers, balances,
-- events and risk counts. The lease row is the fence: only who takes it away with the right attempt number books the
-- decision, so a decision is booked once however often it arrives. Returns one row per operation: applied | fenced.
-- g_ arrays have one element per operation; t_ arrays one per transfer, whose position names the operation (from 1).
CREATE OR REPLACE FUNCTION apply_outcomes(
    decided_at timestamptz,
    g_operation_id uuid[], g_attempt integer[], g_status text[], g_order_id uuid[], g_order_status text[],
    g_provider_reference text[], g_decline_code text[], g_payment_id uuid[], g_shop_id uuid[], g_mode text[],
    g_event_id uuid[], g_event_kind text[], g_event_body text[],
    t_position integer[], t_transfer_id uuid[], t_kind text[], t_debit uuid[], t_credit uuid[], t_amount_minor bigint[],
    t_currency text[], t_subject_id uuid[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    won integer[];          -- positions whose lease we took away, in array order
    every_one boolean;
    moved_operations integer;
    moved_orders integer;
    refused text;
BEGIN
    WITH taken AS (
        DELETE FROM lease AS l
         USING unnest(g_operation_id, g_attempt) WITH ORDINALITY AS g (operation_id, attempt, n)
         WHERE l.operation_id = g.operation_id AND l.attempt = g.attempt
     RETURNING g.n
    )
    SELECT coalesce(array_agg(n), '{}') INTO won FROM taken;
    every_one := cardinality(won) = cardinality(g_operation_id);

    UPDATE operation AS o
       SET status = g.status, decided_at = apply_outcomes.decided_at, cause = NULL, decline_code = g.decline_code,
           provider_reference = coalesce(g.provider_reference, o.provider_reference)
      FROM unnest(g_operation_id, g_status, g_provider_reference, g_decline_code)
           WITH ORDINALITY AS g (operation_id, status, provider_reference, decline_code, n)
     WHERE o.operation_id = g.operation_id AND (every_one OR g.n = ANY (won))
       AND operation_may_become(o.status, g.status);
    GET DIAGNOSTICS moved_operations = ROW_COUNT;

    UPDATE payment_order AS o
       SET status = g.status, decided_at = apply_outcomes.decided_at, decline_code = g.decline_code,
           provider_reference = g.provider_reference
      FROM unnest(g_order_id, g_order_status, g_provider_reference, g_decline_code)
           WITH ORDINALITY AS g (order_id, status, provider_reference, decline_code, n)
     WHERE o.order_id = g.order_id AND (every_one OR g.n = ANY (won)) AND order_may_become(o.status, g.status);
    GET DIAGNOSTICS moved_orders = ROW_COUNT;
    IF moved_operations <> cardinality(won) OR moved_orders <> cardinality(won) THEN
        RAISE EXCEPTION 'a decision would take an order or operation a way that states do not allow'
            USING ERRCODE = 'check_violation';
    END IF;

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.payment_id, g.event_id, g.kind, g.shop_id, g.mode, apply_outcomes.decided_at, g.body::json
      FROM unnest(g_payment_id, g_event_id, g_event_kind, g_shop_id, g_mode, g_event_body)
           WITH ORDINALITY AS g (payment_id, event_id, kind, shop_id, mode, body, n)
     WHERE every_one OR g.n = ANY (won);

    IF 'DECLINED' = ANY (g_status) THEN
        INSERT INTO risk_failure (subject, at)
        SELECT unnest(p.risk_subjects), apply_outcomes.decided_at
          FROM unnest(g_payment_id, g_status) WITH ORDINALITY AS g (payment_id, status, n)
          JOIN payment AS p ON p.payment_id = g.payment_id
         WHERE g.status = 'DECLINED' AND (every_one OR g.n = ANY (won));
    END IF;

    -- The ledger last: its account locks are the only ones another batch may wait for, so they are held shortest.
    IF NOT every_one THEN
        SELECT array_agg(t.transfer_id ORDER BY t.n), array_agg(t.kind ORDER BY t.n), array_agg(t.debit ORDER BY t.n),
               array_agg(t.credit ORDER BY t.n), array_agg(t.amount_minor ORDER BY t.n),
               array_agg(t.currency ORDER BY t.n), array_agg(t.subject_id ORDER BY t.n)
          INTO t_transfer_id, t_kind, t_debit, t_credit, t_amount_minor, t_currency, t_subject_id
          FROM unnest(t_position, t_transfer_id, t_kind, t_debit, t_credit, t_amount_minor, t_currency, t_subject_id)
               WITH ORDINALITY AS t (position, transfer_id, kind, debit, credit, amount_minor, currency, subject_id, n)
         WHERE t.position = ANY (won);
    END IF;
    IF cardinality(t_transfer_id) > 0 THEN
        SELECT string_agg(DISTINCT posted.outcome, ', ') INTO refused
          FROM ledger_post(t_transfer_id, t_kind, NULL, NULL, t_debit, t_credit, t_amount_minor, t_currency,
                           t_subject_id, apply_outcomes.decided_at) AS posted
         WHERE posted.outcome NOT IN ('posted', 'exists');
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused a charge''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;

    -- Who comes again after a lost COMMIT answer finds its own decision booked: same attempt, same word.
    RETURN QUERY
    SELECT g.n::integer, CASE
               WHEN every_one OR g.n = ANY (won) THEN 'applied'
               WHEN EXISTS (SELECT FROM operation AS o
                             WHERE o.operation_id = g.operation_id AND o.attempt = g.attempt AND o.status = g.status)
                   THEN 'applied'
               ELSE 'fenced' END
      FROM unnest(g_operation_id, g_attempt, g_status) WITH ORDINALITY AS g (operation_id, attempt, status, n);
END;
$$;

REVOKE ALL ON FUNCTION apply_outcomes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION apply_outcomes TO coatcheck_app;
