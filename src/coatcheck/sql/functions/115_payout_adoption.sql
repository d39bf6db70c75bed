-- Payouts that a PSP has and the restored books have forgotten: taken over, so that the money is not paid out a second time
-- (hazards G16, D8). As with charges, the operation is PENDING at first, and the PSP's word is booked in the same transaction.

-- Take a payout over: 'adopted' (leased to the caller, attempt 1) or 'exists'. It leaves the seller's available balance as far
-- as that goes. The rest leaves the pending one, which may go below zero: the settlement that had made it available is
-- forgotten, too, and when it comes again so much less of it is released. Money is neither made nor lost, and nothing is
-- payable twice. Should the payout fail or come back, all of it becomes available.
-- Idempotent on the operation. Posts the transfers of a request. Locks: adoptions, a run's item, the accounts in id order.
CREATE OR REPLACE FUNCTION adopt_payout(
    at timestamptz, lease_holder uuid, lease_until timestamptz, who text, why text, new_payout_id uuid, wanted_shop uuid,
    wanted_mode text, seller text, money text, minor bigint, its_provider text, token text, request_key text, run uuid,
    new_operation_id uuid, its_reference text, made_at timestamptz, available_id uuid, pending_id uuid, transit_id uuid,
    available_transfer_id uuid, pending_transfer_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    made CONSTANT timestamptz := least(adopt_payout.made_at, adopt_payout.at);
    -- A run's request has no content but its key; a shop's is said again by the shop.
    digest CONSTANT bytea := CASE WHEN run IS NULL THEN '' ELSE sha256(convert_to(request_key, 'UTF8')) END;
    there_minor bigint;
    t_ids uuid[]; t_debits uuid[]; t_amounts bigint[];
    refused text;
BEGIN
    PERFORM lock_adoptions();
    IF EXISTS (SELECT FROM operation AS o WHERE o.operation_id = new_operation_id) THEN RETURN 'exists'; END IF;
    UPDATE payout_run_item AS i SET outcome = 'requested' WHERE i.payout_id = new_payout_id AND i.outcome IS NULL;
    PERFORM ledger_lock_accounts(ARRAY[available_id, pending_id, transit_id]);
    there_minor := least(minor, greatest(0, (
        SELECT a.credits_posted_minor - a.debits_posted_minor - a.debits_pending_minor
          FROM account AS a WHERE a.account_id = available_id)));

    INSERT INTO payout (payout_id, shop_id, mode, seller_account, currency, amount_minor, provider, destination, key,
                        request_digest, run_id, status, created_at)
    VALUES (new_payout_id, wanted_shop, wanted_mode, seller, money, minor, its_provider, token, request_key, digest, run,
            'PENDING', made);
    INSERT INTO adopted_payout (payout_id, ahead_minor, adopted_at, adopted_by)
    VALUES (new_payout_id, minor - there_minor, adopt_payout.at, who);
    INSERT INTO operation (operation_id, order_id, payment_id, shop_id, mode, kind, provider, amount_minor, currency, body,
                           target_reference, status, attempt, first_sent_at, provider_reference, cause, created_at)
    VALUES (new_operation_id, new_payout_id, new_payout_id, wanted_shop, wanted_mode, 'payout', its_provider, minor, money,
            '', token, 'PENDING', 1, adopt_payout.made_at, its_reference, why, made);
    INSERT INTO lease (operation_id, provider, attempt, holder, due_at)
    VALUES (new_operation_id, its_provider, 1, lease_holder, lease_until);

    SELECT array_agg(leg.id), array_agg(leg.debit), array_agg(leg.amount) INTO t_ids, t_debits, t_amounts
      FROM (VALUES (available_transfer_id, available_id, there_minor),
                   (pending_transfer_id, pending_id, minor - there_minor)) AS leg (id, debit, amount)
     WHERE leg.amount > 0;
    SELECT string_agg(DISTINCT l.outcome, ', ') INTO refused
      FROM ledger_post(t_ids, array_fill('payout'::text, ARRAY[cardinality(t_ids)]), NULL, NULL, t_debits,
                       array_fill(transit_id, ARRAY[cardinality(t_ids)]), t_amounts,
                       array_fill(money, ARRAY[cardinality(t_ids)]), array_fill(new_payout_id, ARRAY[cardinality(t_ids)]),
                       adopt_payout.at) AS l
     WHERE l.outcome <> 'posted';
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'the ledger refused an adopted payout''s transfers: %', refused USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (new_payout_id, time_ordered_id(adopt_payout.at), 'payout.adopted', wanted_shop, wanted_mode, adopt_payout.at,
            json_build_object(
                'payout_id', new_payout_id, 'operation_id', new_operation_id, 'seller_account', seller,
                'amount_minor', minor, 'ahead_minor', minor - there_minor, 'currency', money, 'provider', its_provider,
                'destination', token, 'key', request_key, 'request_digest', encode(digest, 'hex'), 'run_id', run,
                'provider_reference', its_reference, 'first_sent_at', adopt_payout.made_at, 'created_at', made,
                'by', who, 'why', why, 'transfers', (
                    SELECT json_agg(json_build_object(
                               'transfer_id', t.id, 'kind', 'payout', 'debit_account_id', t.debit,
                               'credit_account_id', transit_id, 'amount_minor', t.amount, 'currency', money))
                      FROM unnest(t_ids, t_debits, t_amounts) AS t (id, debit, amount))));
    RETURN 'adopted';
END;
$$;

-- The shop comes again with the key of a payout that was adopted: from now on the key stands for this request. False where
-- there is no such payout, it was recognised before, or the request is about another seller, currency or amount (NULL:
-- whatever was there). Idempotent on the payout. Called with the seller's accounts locked.
CREATE OR REPLACE FUNCTION recognise_payout(
    at timestamptz, wanted_payout uuid, seller text, money text, wanted_minor bigint, digest bytea, event_id uuid
) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH known AS (
        UPDATE adopted_payout AS a SET recognised_at = recognise_payout.at
          FROM payout AS p
         WHERE a.payout_id = wanted_payout AND a.recognised_at IS NULL AND p.payout_id = a.payout_id AND p.run_id IS NULL
           AND (p.seller_account, p.currency::text) = (recognise_payout.seller, money)
           AND p.amount_minor = coalesce(wanted_minor, p.amount_minor)
     RETURNING p.payout_id, p.shop_id, p.mode
    ), said AS (
        UPDATE payout AS p SET request_digest = recognise_payout.digest FROM known AS k WHERE p.payout_id = k.payout_id
    ), told AS (
        INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
        SELECT k.payout_id, recognise_payout.event_id, 'payout.recognised', k.shop_id, k.mode, recognise_payout.at,
               json_build_object('payout_id', k.payout_id, 'request_digest', encode(digest, 'hex'))
          FROM known AS k
    )
    SELECT EXISTS (SELECT FROM known);
$$;

REVOKE ALL ON FUNCTION adopt_payout, recognise_payout FROM PUBLIC;
GRANT EXECUTE ON FUNCTION adopt_payout TO coatcheck_app;
