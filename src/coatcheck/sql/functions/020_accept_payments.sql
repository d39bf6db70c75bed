-- T1: the intent before any call. A batch of checkouts becomes payments, orders, operations leased to the caller, and
-- events, in one commit. Arrays with the prefix p_ have one element per payment; those with o_ one per order, whose
-- o_position names its payment (from 1). p_capture, p_on_failure and p_return_url are NULL when every payment of the
-- batch is the usual one: automatic, keep, by token. Returns one row per payment, in any order:
--   accepted           the rows are this request's own (also when the batch is run again after a lost COMMIT answer)
--   same_key           the key was used for this very request: answer from the payment it made
--   key_reused         the key was used for another request
--   same_checkout      another key, the same checkout with the same content
--   checkout_conflict  another key, the same checkout with other content
--   order_conflict     one of the payment_order_ids belongs to another payment; detail names it
--
-- The primary keys are the arbiters, never a look beforehand. A row that another transaction is inserting is waited
-- for. Rows are inserted in id order, so two batches cannot wait for each other.
CREATE OR REPLACE FUNCTION accept_payments(
    at timestamptz, keys_expired_before timestamptz, lease_holder uuid, lease_until timestamptz,
    p_shop_id uuid[], p_mode text[], p_key_id uuid[], p_key text[], p_digest bytea[], p_nonce uuid[],
    p_payment_id uuid[], p_checkout_id text[], p_order_ids text[], p_metadata text[],
    p_buyer_id uuid[], p_buyer_reference text[], p_buyer_email text[], p_buyer_name text[], p_buyer_country text[],
    p_buyer_ip text[],
    p_risk_decision text[], p_risk_signals text[], p_risk_subjects text[], p_event_id uuid[], p_event_body text[],
    p_capture text[], p_on_failure text[], p_return_url text[],
    o_position integer[], o_order_id uuid[], o_payment_order_id text[], o_seller_account text[],
    o_amount_minor bigint[], o_commission_minor bigint[], o_currency text[], o_provider text[],
    o_operation_id uuid[], o_body bytea[]
) RETURNS TABLE (place integer, outcome text, payment_id uuid, detail text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
-- The tables are addressed by primary key only; a plan made while they were empty must not scan them when they are full.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    asked integer := cardinality(p_payment_id);
    every_one boolean := true;      -- while true, no filter is evaluated: the common case
    live integer[];                 -- else: the positions that are still new
    inserted integer;
    lost integer[];
BEGIN
    PERFORM refuse_while_recovering();
    -- 1. The idempotency key decides first.
    INSERT INTO idempotency_key (key_id, shop_id, mode, key, request_digest, resource_id, claimed_by, created_at)
    SELECT g.key_id, g.shop_id, g.mode, g.key, g.digest, g.payment_id, g.nonce, at
      FROM unnest(p_key_id, p_shop_id, p_mode, p_key, p_digest, p_payment_id, p_nonce)
           AS g (key_id, shop_id, mode, key, digest, payment_id, nonce)
     ORDER BY g.key_id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;

    IF inserted < asked THEN
        every_one := false;
        -- A key that has lived its 24 hours is free again (the checkout_id is not: it is checked next).
        UPDATE idempotency_key AS k
           SET request_digest = g.digest, resource_id = g.payment_id, claimed_by = g.nonce, created_at = at
          FROM (SELECT DISTINCT ON (u.key_id) u.*
                  FROM unnest(p_key_id, p_digest, p_payment_id, p_nonce) AS u (key_id, digest, payment_id, nonce)
                 ORDER BY u.key_id) AS g
         WHERE k.key_id = g.key_id AND k.created_at <= keys_expired_before;
        -- A payment that carries our nonce already was committed by a run whose answer was lost: it is whole and worked
        -- on. Only what this run inserts is live.
        SELECT coalesce(array_agg(g.n), '{}') INTO live
          FROM unnest(p_key_id, p_nonce, p_payment_id) WITH ORDINALITY AS g (key_id, nonce, payment_id, n)
          JOIN idempotency_key AS k ON k.key_id = g.key_id AND k.claimed_by = g.nonce
          LEFT JOIN payment AS p ON p.payment_id = g.payment_id AND p.accepted_by = g.nonce
         WHERE p.payment_id IS NULL;
    END IF;

    -- 2. The checkout.
    INSERT INTO payment (payment_id, shop_id, mode, checkout_id, request_digest, accepted_by, buyer_id, order_ids,
                         metadata, risk_decision, risk_signals, risk_subjects, capture, on_failure, return_url,
                         created_at)
    SELECT g.payment_id, g.shop_id, g.mode, g.checkout_id, g.digest, g.nonce, g.buyer_id, g.order_ids::uuid[],
           g.metadata::json, g.risk_decision, g.risk_signals::json, g.risk_subjects::uuid[],
           coalesce(p_capture[g.n], 'automatic'), coalesce(p_on_failure[g.n], 'keep'), p_return_url[g.n], at
      FROM unnest(p_payment_id, p_shop_id, p_mode, p_checkout_id, p_digest, p_nonce, p_buyer_id, p_order_ids,
                  p_metadata, p_risk_decision, p_risk_signals, p_risk_subjects)
           WITH ORDINALITY
           AS g (payment_id, shop_id, mode, checkout_id, digest, nonce, buyer_id, order_ids,
                 metadata, risk_decision, risk_signals, risk_subjects, n)
     WHERE every_one OR g.n = ANY (live)
     ORDER BY g.payment_id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;

    IF inserted < (CASE WHEN every_one THEN asked ELSE cardinality(live) END) THEN
        SELECT coalesce(array_agg(g.n), '{}') INTO live
          FROM unnest(p_payment_id, p_nonce) WITH ORDINALITY AS g (payment_id, nonce, n)
          JOIN payment AS p ON p.payment_id = g.payment_id AND p.accepted_by = g.nonce
         WHERE every_one OR g.n = ANY (live);
        every_one := false;
    END IF;

    -- 3. The orders: all of a payment's, or the payment is not accepted.
    INSERT INTO payment_order (order_id, payment_id, shop_id, mode, payment_order_id, seller_account, amount_minor,
                               commission_minor, currency, provider, status, decline_code, created_at, decided_at)
    SELECT g.order_id, p_payment_id[g.position], p_shop_id[g.position], m.mode, g.payment_order_id, g.seller_account,
           g.amount_minor, g.commission_minor, g.currency, g.provider,
           CASE WHEN g.body IS NULL THEN 'FAILED' ELSE 'EXECUTING' END,
           CASE WHEN g.body IS NULL THEN 'risk_blocked' END, at, CASE WHEN g.body IS NULL THEN at END
      FROM unnest(o_position, o_order_id, o_payment_order_id, o_seller_account, o_amount_minor, o_commission_minor,
                  o_currency, o_provider, o_body)
           AS g (position, order_id, payment_order_id, seller_account, amount_minor, commission_minor,
                 currency, provider, body)
     CROSS JOIN LATERAL (SELECT p_mode[g.position] AS mode) AS m
     WHERE every_one OR g.position = ANY (live)
     ORDER BY g.order_id
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS inserted = ROW_COUNT;

    IF inserted < (SELECT count(*) FROM unnest(o_position) AS g (n) WHERE every_one OR g.n = ANY (live)) THEN
        SELECT coalesce(array_agg(DISTINCT g.position), '{}') INTO lost
          FROM unnest(o_position, o_order_id) AS g (position, order_id)
          JOIN payment_order AS o ON o.order_id = g.order_id AND o.payment_id <> p_payment_id[g.position]
         WHERE every_one OR g.position = ANY (live);
        DELETE FROM payment_order AS o USING unnest(o_position, o_order_id) AS g (position, order_id)
         WHERE o.order_id = g.order_id AND g.position = ANY (lost) AND o.payment_id = p_payment_id[g.position];
        DELETE FROM payment AS p USING unnest(p_payment_id) WITH ORDINALITY AS g (payment_id, n)
         WHERE p.payment_id = g.payment_id AND g.n = ANY (lost);
        SELECT coalesce(array_agg(g.n), '{}') INTO live
          FROM generate_series(1, asked) AS g (n)
         WHERE (every_one OR g.n = ANY (live)) AND NOT g.n = ANY (lost);
        every_one := false;
    END IF;

    -- 4. What the new payments are made of: buyers, operations with their leases, and the events.
    INSERT INTO buyer AS b (buyer_id, shop_id, mode, reference, email, name, country, ip, updated_at)
    SELECT DISTINCT ON (g.buyer_id) g.buyer_id, g.shop_id, g.mode, g.reference, g.email, g.name, g.country, g.ip, at
      FROM unnest(p_buyer_id, p_shop_id, p_mode, p_buyer_reference, p_buyer_email, p_buyer_name, p_buyer_country,
                  p_buyer_ip)
           WITH ORDINALITY AS g (buyer_id, shop_id, mode, reference, email, name, country, ip, n)
     WHERE (every_one OR g.n = ANY (live))
       -- A buyer who comes again unchanged is left alone: an upsert that changes nothing would lock the row all the same.
       AND NOT EXISTS (SELECT FROM buyer AS k WHERE k.buyer_id = g.buyer_id
                          AND (k.email, k.name, k.country, k.ip) IS NOT DISTINCT FROM (g.email, g.name, g.country, g.ip))
     ORDER BY g.buyer_id
    ON CONFLICT (buyer_id) DO UPDATE
       SET email = excluded.email, name = excluded.name, country = excluded.country, ip = excluded.ip, updated_at = at
     WHERE (b.email, b.name, b.country, b.ip)
           IS DISTINCT FROM (excluded.email, excluded.name, excluded.country, excluded.ip);

    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency,
                           body, is_hosted, status, attempt, first_sent_at, created_at)
    SELECT g.operation_id, g.order_id, p_payment_id[g.position], p_shop_id[g.position], m.mode,
           CASE WHEN p_capture[g.position] = 'manual' OR p_on_failure[g.position] = 'all_or_nothing'
                THEN 'authorize' ELSE 'charge' END,
           g.provider, g.amount_minor, g.currency, g.body, p_return_url[g.position] IS NOT NULL, 'OPEN', 1, at, at
      FROM unnest(o_position, o_order_id, o_operation_id, o_provider, o_amount_minor, o_currency, o_body)
           AS g (position, order_id, operation_id, provider, amount_minor, currency, body)
     CROSS JOIN LATERAL (SELECT p_mode[g.position] AS mode) AS m
     WHERE g.body IS NOT NULL AND (every_one OR g.position = ANY (live));

    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    SELECT g.operation_id, g.provider, 1, lease_holder, lease_until
      FROM unnest(o_position, o_operation_id, o_provider, o_body) AS g (position, operation_id, provider, body)
     WHERE g.body IS NOT NULL AND (every_one OR g.position = ANY (live));

    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    SELECT g.payment_id, g.event_id, 'payment.accepted', g.shop_id, g.mode, at, g.body::json
      FROM unnest(p_payment_id, p_event_id, p_shop_id, p_mode, p_event_body)
           WITH ORDINALITY AS g (payment_id, event_id, shop_id, mode, body, n)
     WHERE every_one OR g.n = ANY (live);

    IF every_one THEN
        RETURN QUERY SELECT n::integer, 'accepted', g.payment_id, NULL::text
                       FROM unnest(p_payment_id) WITH ORDINALITY AS g (payment_id, n);
        RETURN;
    END IF;

    -- 5. Why the others were not accepted. The stored natural keys are compared, never assumed from the hash.
    RETURN QUERY
    SELECT g.n::integer,
           CASE WHEN g.n = ANY (live) THEN 'accepted'
                WHEN k.claimed_by <> g.nonce THEN CASE
                    WHEN (k.shop_id, k.mode, k.key) <> (g.shop_id, g.mode, g.key) THEN 'hash_collision'
                    WHEN k.request_digest = g.digest THEN 'same_key' ELSE 'key_reused' END
                WHEN g.n = ANY (lost) THEN 'order_conflict'
                WHEN p.accepted_by = g.nonce THEN 'accepted'
                WHEN (p.shop_id, p.mode, p.checkout_id) <> (g.shop_id, g.mode, g.checkout_id) THEN 'hash_collision'
                WHEN p.request_digest = g.digest THEN 'same_checkout'
                ELSE 'checkout_conflict' END,
           CASE WHEN k.claimed_by <> g.nonce THEN k.resource_id ELSE g.payment_id END,
           CASE WHEN g.n = ANY (lost) THEN (
               SELECT min(o.payment_order_id)
                 FROM unnest(o_position, o_order_id) AS d (position, order_id)
                 JOIN payment_order AS o ON o.order_id = d.order_id AND o.payment_id <> g.payment_id
                WHERE d.position = g.n) END
      FROM unnest(p_key_id, p_key, p_shop_id, p_mode, p_nonce, p_digest, p_payment_id, p_checkout_id)
           WITH ORDINALITY AS g (key_id, key, shop_id, mode, nonce, digest, payment_id, checkout_id, n)
      JOIN idempotency_key AS k ON k.key_id = g.key_id
      LEFT JOIN payment AS p ON p.payment_id = g.payment_id;

    -- A refused request leaves no key behind: corrected, it may come again under the same one.
    DELETE FROM idempotency_key AS k
     USING unnest(p_key_id, p_nonce, p_payment_id, p_digest) WITH ORDINALITY AS g (key_id, nonce, payment_id, digest, n)
     WHERE k.key_id = g.key_id AND k.claimed_by = g.nonce AND NOT g.n = ANY (live)
       AND NOT EXISTS (SELECT FROM payment AS p WHERE p.payment_id = g.payment_id AND p.request_digest = g.digest);
END;
$$;

REVOKE ALL ON FUNCTION accept_payments FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accept_payments TO coatcheck_app;
