-- Adoption: what a PSP has and our books have not becomes payments, orders, refunds and operations here. Each is PENDING at
-- first, which is asked about and never sent; the PSP's word then books it like any other, in the same transaction. The ids
-- are the tickets that the shop's own requests make, so a retry finds what is here and charges nothing.

-- One adoption at a time, and none beside the retry that completes one: whoever comes second sees what the first has done.
CREATE OR REPLACE FUNCTION lock_adoptions() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('coatcheck adoption', 0));
$$;

-- Take charges and authorizations over. One row for each, in any order: 'adopted' (leased to the caller, attempt 1),
-- 'exists' (the operation is here), 'conflict' (the order or the checkout stands for something else here).
-- Idempotent on the operation. Raises unique_violation when a checkout with one of the orders is accepted at this moment.
CREATE OR REPLACE FUNCTION adopt_charges(
    at timestamptz, lease_holder uuid, lease_until timestamptz, who text, why text,
    g_payment_id uuid[], g_shop_id uuid[], g_mode text[], g_checkout_id text[], g_order_id uuid[],
    g_payment_order_id text[], g_seller_account text[], g_amount_minor bigint[], g_commission_minor bigint[],
    g_currency text[], g_provider text[], g_operation_id uuid[], g_kind text[], g_provider_reference text[],
    g_made_at timestamptz[]
) RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    outcomes text[];
BEGIN
    PERFORM lock_adoptions();
    WITH missing AS MATERIALIZED (
        SELECT g.*
          FROM unnest(g_payment_id, g_shop_id, g_mode, g_checkout_id, g_order_id, g_operation_id, g_kind, g_made_at)
               WITH ORDINALITY AS g (payment_id, shop_id, mode, checkout_id, order_id, operation_id, kind, made_at, n)
         WHERE NOT EXISTS (SELECT FROM operation AS o WHERE o.operation_id = g.operation_id)
           AND NOT EXISTS (SELECT FROM payment_order AS o WHERE o.order_id = g.order_id)
    ), made AS (
        INSERT INTO payment (payment_id, shop_id, mode, checkout_id, request_digest, accepted_by, buyer_id, order_ids,
                             risk_decision, risk_signals, risk_subjects, capture, on_failure, created_at)
        SELECT m.payment_id, (array_agg(m.shop_id))[1], min(m.mode), min(m.checkout_id), '', gen_random_uuid(),
               '00000000-0000-0000-0000-000000000000', array_agg(m.order_id ORDER BY m.n), 'ALLOW', '[]', '{}',
               CASE min(m.kind) WHEN 'authorize' THEN 'manual' ELSE 'automatic' END, 'keep',
               least(min(m.made_at), at)
          FROM missing AS m GROUP BY m.payment_id ORDER BY m.payment_id  -- as accept_payments does: neither waits for the other
        ON CONFLICT DO NOTHING
     RETURNING payment_id
    ), noted AS (
        INSERT INTO adopted_payment (payment_id, adopted_at, adopted_by) SELECT m.payment_id, at, who FROM made AS m
    )
    UPDATE payment AS p SET order_ids = p.order_ids || more.order_ids
      FROM (SELECT m.payment_id, array_agg(m.order_id ORDER BY m.n) AS order_ids FROM missing AS m GROUP BY m.payment_id) AS more
      JOIN adopted_payment AS a ON a.payment_id = more.payment_id AND a.completed_at IS NULL
     WHERE p.payment_id = more.payment_id;

    -- Seen after whoever was accepting one of the checkouts has committed: then its operation is here by now.
    SELECT array_agg(CASE
               WHEN EXISTS (SELECT FROM operation AS o WHERE o.operation_id = g.operation_id) THEN 'exists'
               WHEN EXISTS (SELECT FROM payment_order AS o WHERE o.order_id = g.order_id) THEN 'conflict'
               WHEN EXISTS (SELECT FROM payment AS p JOIN adopted_payment AS a USING (payment_id)
                             WHERE p.payment_id = g.payment_id AND g.order_id = ANY (p.order_ids)
                               AND (p.shop_id, p.mode, p.checkout_id) = (g.shop_id, g.mode, g.checkout_id)) THEN 'adopted'
               ELSE 'conflict' END ORDER BY g.n)
      INTO outcomes
      FROM unnest(g_payment_id, g_shop_id, g_mode, g_checkout_id, g_order_id, g_operation_id)
           WITH ORDINALITY AS g (payment_id, shop_id, mode, checkout_id, order_id, operation_id, n);

    INSERT INTO payment_order (order_id, payment_id, shop_id, mode, payment_order_id, seller_account, amount_minor,
                               commission_minor, currency, provider, status, created_at)
    SELECT g.order_id, g.payment_id, g.shop_id, m.mode, g.payment_order_id, g.seller_account, g.amount_minor,
           g.commission_minor, g.currency, g.provider, 'PENDING', least(g.made_at, at)
      FROM unnest(g_order_id, g_payment_id, g_shop_id, g_mode, g_payment_order_id, g_seller_account, g_amount_minor,
                  g_commission_minor, g_currency, g_provider, g_made_at, outcomes)
           AS g (order_id, payment_id, shop_id, world, payment_order_id, seller_account, amount_minor, commission_minor,
                 currency, provider, made_at, outcome)
     CROSS JOIN LATERAL (SELECT g.world AS mode) AS m
     WHERE g.outcome = 'adopted'
     ORDER BY g.order_id;
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency,
                           body, status, attempt, first_sent_at, provider_reference, cause, created_at)
    SELECT g.operation_id, g.order_id, g.payment_id, g.shop_id, m.mode, g.kind, g.provider, g.amount_minor, g.currency,
           '', 'PENDING', 1, g.made_at, g.provider_reference, why, least(g.made_at, at)
      FROM unnest(g_operation_id, g_order_id, g_payment_id, g_shop_id, g_mode, g_kind, g_provider, g_amount_minor,
                  g_currency, g_made_at, g_provider_reference, outcomes)
           AS g (operation_id, order_id, payment_id, shop_id, world, kind, provider, amount_minor, currency, made_at,
                 provider_reference, outcome)
     CROSS JOIN LATERAL (SELECT g.world AS mode) AS m
     WHERE g.outcome = 'adopted';
    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    SELECT g.operation_id, g.provider, 1, lease_holder, lease_until
      FROM unnest(g_operation_id, g_provider, outcomes) AS g (operation_id, provider, outcome)
     WHERE g.outcome = 'adopted';

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT p.payment_id, time_ordered_id(adopt_charges.at), 'payment.adopted', p.shop_id, p.mode, adopt_charges.at,
           json_build_object(
               'payment_id', p.payment_id, 'checkout_id', p.checkout_id, 'by', who, 'why', why, 'capture', p.capture,
               'on_failure', p.on_failure, 'accepted_by', p.accepted_by, 'created_at', p.created_at,
               'order_ids', p.order_ids, 'orders',
               json_agg(json_build_object(
                   'order_id', o.order_id, 'payment_order_id', o.payment_order_id, 'seller_account', o.seller_account,
                   'amount_minor', o.amount_minor, 'commission_minor', o.commission_minor,
                   'currency', o.currency::text, 'provider', o.provider, 'status', o.status, 'decline_code', NULL,
                   'created_at', o.created_at, 'operation', json_build_object(
                       'operation_id', c.operation_id, 'kind', c.kind, 'provider_reference', c.provider_reference,
                       'first_sent_at', c.first_sent_at)) ORDER BY o.order_id))
      FROM unnest(g_operation_id, outcomes) AS g (operation_id, outcome)
      JOIN operation AS c ON c.operation_id = g.operation_id
      JOIN payment_order AS o ON o.order_id = c.order_id
      JOIN payment AS p ON p.payment_id = o.payment_id
     WHERE g.outcome = 'adopted'
     GROUP BY p.payment_id;

    RETURN QUERY SELECT g.n::integer, g.outcome FROM unnest(outcomes) WITH ORDINALITY AS g (outcome, n);
END;
$$;

-- Take a capture, void or refund over that a PSP has and the books have not: 'adopted' (leased to the caller, attempt 1),
-- 'exists', 'unknown' (no such order), 'conflict' (another currency), 'not_possible' (the order allows no such thing), or
-- what request_refund says. A refund is reserved like any other. Idempotent on the operation. Locks: the order.
CREATE OR REPLACE FUNCTION adopt_action(
    at timestamptz, lease_holder uuid, lease_until timestamptz, who text, why text, new_operation_id uuid, act text,
    wanted_order uuid, charge text, its_reference text, minor bigint, money text, made_at timestamptz, final boolean,
    new_refund_id uuid, returns_commission boolean
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    o payment_order;
    verdict text;
BEGIN
    PERFORM lock_adoptions();
    SELECT * INTO o FROM payment_order AS p WHERE p.order_id = wanted_order FOR UPDATE;
    IF EXISTS (SELECT FROM operation AS c WHERE c.operation_id = new_operation_id) THEN RETURN 'exists'; END IF;
    IF o.order_id IS NULL THEN RETURN 'unknown'; END IF;
    IF o.currency <> money THEN RETURN 'conflict'; END IF;
    IF act = 'refund' THEN
        verdict := request_refund(at, NULL, NULL, new_refund_id, wanted_order, minor, returns_commission, '', '', why,
                                  new_operation_id, time_ordered_id(at));
        IF verdict <> 'requested' THEN RETURN verdict; END IF;
    ELSE
        IF o.status <> 'AUTHORIZED' OR o.acting IS NOT NULL
           OR act = 'capture' AND minor > o.authorized_minor - o.captured_minor THEN
            RETURN 'not_possible';
        END IF;
        PERFORM insert_follow_ups(at, NULL, NULL, ARRAY[new_operation_id], act, ARRAY[wanted_order], ARRAY[minor], final,
                                  ARRAY[NULL::uuid], ARRAY[charge]);
    END IF;
    UPDATE operation AS c
       SET status = 'PENDING', first_sent_at = adopt_action.made_at, provider_reference = its_reference, cause = why
     WHERE c.operation_id = new_operation_id;
    UPDATE lease AS l SET holder = lease_holder, due_at = lease_until WHERE l.operation_id = new_operation_id;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (o.payment_id, time_ordered_id(at), 'operation.adopted', o.shop_id, o.mode, at,
            json_build_object('operation_id', new_operation_id, 'order_id', o.order_id, 'kind', act,
                              'amount_minor', minor, 'is_final', final, 'target_reference', charge,
                              'provider_reference', its_reference, 'refund_id', new_refund_id, 'status', 'PENDING',
                              'first_sent_at', adopt_action.made_at, 'by', who, 'why', why));
    RETURN 'adopted';
END;
$$;

-- The shop comes again with a checkout that was adopted: what the PSP did not know is filled in from the request, and orders
-- that no PSP has are made now, leased to the caller. 'recognised' with those operations; 'same' or 'conflict' where it is no
-- adopted payment, or no more, or where an adopted order is not in the request just as it was charged.
-- What should have been paid on a PSP's page is not asked for again: that page had the charged orders on it, too.
-- Idempotent on the payment. Locks: adoptions, the payment.
CREATE OR REPLACE FUNCTION recognise_payment(
    at timestamptz, lease_holder uuid, lease_until timestamptz,
    r_shop_id uuid, r_mode text, r_key_id uuid, r_key text, r_digest bytea, r_nonce uuid, r_payment_id uuid,
    r_checkout_id text, r_order_ids text, r_metadata text, r_buyer_id uuid, r_buyer_reference text, r_buyer_email text,
    r_buyer_name text, r_buyer_country text, r_buyer_ip text, r_risk_decision text, r_risk_signals text,
    r_risk_subjects text, r_event_body text, r_capture text, r_on_failure text, r_return_url text,
    o_order_id uuid[], o_payment_order_id text[], o_seller_account text[], o_amount_minor bigint[],
    o_commission_minor bigint[], o_currency text[], o_provider text[], o_operation_id uuid[], o_body bytea[]
) RETURNS TABLE (verdict text, made uuid[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    p payment;
    missing uuid[];
    asks_now CONSTANT boolean := r_return_url IS NULL;
BEGIN
    PERFORM refuse_while_recovering();
    PERFORM lock_adoptions();
    SELECT * INTO p FROM payment AS y WHERE y.payment_id = r_payment_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM adopted_payment AS a WHERE a.payment_id = r_payment_id AND a.completed_at IS NULL) THEN
        RETURN QUERY SELECT CASE WHEN p.request_digest = r_digest THEN 'same' ELSE 'conflict' END, '{}'::uuid[];
        RETURN;
    END IF;
    IF (p.shop_id, p.mode, p.checkout_id) <> (r_shop_id, r_mode, r_checkout_id) OR EXISTS (
        SELECT FROM payment_order AS o
         WHERE o.order_id = ANY (p.order_ids) AND NOT EXISTS (
               SELECT FROM unnest(o_order_id, o_seller_account, o_amount_minor, o_commission_minor, o_currency, o_operation_id)
                        AS g (order_id, seller_account, amount_minor, commission_minor, currency, operation_id)
                 JOIN operation AS c ON c.operation_id = g.operation_id
                WHERE g.order_id = o.order_id
                  AND (g.seller_account, g.amount_minor, g.commission_minor, g.currency)
                      = (o.seller_account, o.amount_minor, o.commission_minor, o.currency))
    ) OR EXISTS (SELECT FROM payment_order AS o WHERE o.order_id = ANY (o_order_id) AND o.payment_id <> r_payment_id) THEN
        RETURN QUERY SELECT 'conflict', '{}'::uuid[];
        RETURN;
    END IF;
    missing := ARRAY(SELECT g FROM unnest(o_order_id) AS g WHERE NOT g = ANY (p.order_ids) ORDER BY g);

    INSERT INTO payment_order (order_id, payment_id, shop_id, mode, payment_order_id, seller_account, amount_minor,
                               commission_minor, currency, provider, status, decline_code, created_at, decided_at)
    SELECT g.order_id, r_payment_id, r_shop_id, r_mode, g.payment_order_id, g.seller_account, g.amount_minor,
           g.commission_minor, g.currency, g.provider, CASE WHEN g.body IS NULL OR NOT asks_now THEN 'FAILED' ELSE 'EXECUTING' END,
           CASE WHEN g.body IS NULL THEN 'risk_blocked' WHEN NOT asks_now THEN 'page_lost' END, at,
           CASE WHEN g.body IS NULL OR NOT asks_now THEN at END
      FROM unnest(o_order_id, o_payment_order_id, o_seller_account, o_amount_minor, o_commission_minor, o_currency,
                  o_provider, o_body)
           AS g (order_id, payment_order_id, seller_account, amount_minor, commission_minor, currency, provider, body)
     WHERE g.order_id = ANY (missing)
     ORDER BY g.order_id;
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency, body,
                           is_hosted, status, attempt, first_sent_at, decline_code, created_at, decided_at)
    SELECT g.operation_id, g.order_id, r_payment_id, r_shop_id, r_mode,
           CASE WHEN r_capture = 'manual' OR r_on_failure = 'all_or_nothing' THEN 'authorize' ELSE 'charge' END,
           g.provider, g.amount_minor, g.currency, g.body, NOT asks_now,
           CASE WHEN asks_now THEN 'OPEN' ELSE 'DECLINED' END, 1, CASE WHEN asks_now THEN at END,
           CASE WHEN NOT asks_now THEN 'page_lost' END, at, CASE WHEN NOT asks_now THEN at END
      FROM unnest(o_operation_id, o_order_id, o_provider, o_amount_minor, o_currency, o_body)
           AS g (operation_id, order_id, provider, amount_minor, currency, body)
     WHERE g.order_id = ANY (missing) AND g.body IS NOT NULL;
    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    SELECT o.operation_id, o.provider, 1, lease_holder, lease_until
      FROM operation AS o WHERE o.operation_id = ANY (o_operation_id) AND o.order_id = ANY (missing) AND o.status = 'OPEN';

    INSERT INTO buyer AS b (buyer_id, shop_id, mode, reference, email, name, country, ip, updated_at)
    VALUES (r_buyer_id, r_shop_id, r_mode, r_buyer_reference, r_buyer_email, r_buyer_name, r_buyer_country, r_buyer_ip, at)
    ON CONFLICT (buyer_id) DO UPDATE
       SET email = excluded.email, name = excluded.name, country = excluded.country, ip = excluded.ip, updated_at = at;
    UPDATE payment AS y
       SET request_digest = r_digest, accepted_by = r_nonce, buyer_id = r_buyer_id, order_ids = r_order_ids::uuid[],
           metadata = r_metadata::json, risk_decision = r_risk_decision, risk_signals = r_risk_signals::json,
           risk_subjects = r_risk_subjects::uuid[], capture = r_capture, on_failure = r_on_failure, return_url = r_return_url
     WHERE y.payment_id = r_payment_id;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT r_payment_id, time_ordered_id(recognise_payment.at), 'order.failed', r_shop_id, r_mode, recognise_payment.at,
           json_build_object('operation_id', o.operation_id, 'order_id', o.order_id, 'attempt', 1, 'outcome', 'DECLINED',
                             'status', 'FAILED', 'provider_reference', NULL, 'decline_code', o.decline_code,
                             'transfers', '[]'::json)
      FROM operation AS o
     WHERE o.operation_id = ANY (o_operation_id) AND o.order_id = ANY (missing) AND o.decline_code = 'page_lost';
    UPDATE adopted_payment AS a SET completed_at = at WHERE a.payment_id = r_payment_id;
    INSERT INTO idempotency_key (key_id, shop_id, mode, key, request_digest, resource_id, claimed_by, created_at)
    VALUES (r_key_id, r_shop_id, r_mode, r_key, r_digest, r_payment_id, r_nonce, at)
    ON CONFLICT DO NOTHING;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (r_payment_id, time_ordered_id(at), 'payment.recognised', r_shop_id, r_mode, at,
            with_field(with_field(r_event_body, 'made', to_json(missing)), 'accepted_by', to_json(r_nonce))::json);
    IF r_on_failure = 'all_or_nothing' THEN
        INSERT INTO checkout_decision (payment_id, decision, decided_at)
        SELECT r_payment_id, 'capture', at
         WHERE EXISTS (SELECT FROM payment_order AS o WHERE o.payment_id = r_payment_id AND o.captured_minor > 0
                          AND o.order_id = ANY (o_order_id))
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
            VALUES (r_payment_id, time_ordered_id(at), 'checkout.decided', r_shop_id, r_mode, at,
                    json_build_object('payment_id', r_payment_id, 'decision', 'capture', 'decided_at', at,
                                      'operations', '[]'::json));
        END IF;
        PERFORM settle_checkouts(at, ARRAY[r_payment_id]);
    END IF;
    RETURN QUERY SELECT 'recognised', ARRAY(
        SELECT o.operation_id FROM operation AS o
         WHERE o.operation_id = ANY (o_operation_id) AND o.order_id = ANY (missing) AND o.status = 'OPEN');
END;
$$;

-- A line that told of something unknown speaks for the operation that was adopted since: the record is claimed by it.
CREATE OR REPLACE FUNCTION claim_adopted_line(wanted_file uuid, wanted_line integer, adopted uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH line AS (
        UPDATE settlement_line AS l SET operation_id = adopted
         WHERE l.file_id = wanted_file AND l.line_no = wanted_line AND l.operation_id IS NULL
     RETURNING l.kind
    )
    INSERT INTO settled_record (operation_id, kind, file_id, line_no)
    SELECT adopted, l.kind, wanted_file, wanted_line FROM line AS l
    ON CONFLICT DO NOTHING;
$$;

REVOKE ALL ON FUNCTION lock_adoptions, adopt_charges, adopt_action, recognise_payment, claim_adopted_line FROM PUBLIC;
GRANT EXECUTE ON FUNCTION adopt_charges, adopt_action, recognise_payment, claim_adopted_line TO coatcheck_app;
