-- What people say of breaks. Two of them, never one (hazard I1): the first names the account to which the money in suspense
-- belongs, with a note and the evidence; the second confirms it.

-- One at a time for a provider's files and breaks, as for the files themselves. Taken before any row of theirs.
CREATE OR REPLACE FUNCTION lock_reconciliation(shop uuid, world text, psp text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('coatcheck reconciliation ' || shop || world || psp, 0));
$$;

-- Say what a break is. 'proposed'; 'exists' (the same again); 'settled' (it is closed by now); 'taken' (somebody else's
-- proposal is open); 'unknown'. One's own is replaced. Idempotent on who says what. Locks: the break.
CREATE OR REPLACE FUNCTION propose_break_resolution(
    at timestamptz, wanted uuid, new_proposal_id uuid, new_destination text, new_account text, new_account_name text,
    new_note text, new_evidence text, who text, new_expires_at timestamptz, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    k reconciliation_break;
    known break_resolution;
BEGIN
    SELECT * INTO k FROM reconciliation_break AS b WHERE b.break_id = wanted FOR UPDATE;
    IF k.break_id IS NULL THEN RETURN 'unknown'; END IF;
    IF k.closed_at IS NOT NULL THEN RETURN 'settled'; END IF;
    SELECT * INTO known FROM break_resolution AS r WHERE r.break_id = wanted;
    IF known.confirmed_at IS NULL AND known.expires_at > at THEN
        IF known.proposed_by <> who THEN RETURN 'taken'; END IF;
        IF (known.destination, known.note, known.evidence) = (new_destination, new_note, new_evidence)
           AND known.account IS NOT DISTINCT FROM new_account THEN
            RETURN 'exists';
        END IF;
    END IF;
    INSERT INTO break_resolution AS r (break_id, proposal_id, destination, account, account_name, note, evidence, proposed_by,
                                       proposed_at, expires_at)
    VALUES (wanted, new_proposal_id, new_destination, new_account, new_account_name, new_note, new_evidence, who, at,
            new_expires_at)
    ON CONFLICT (break_id) DO UPDATE
       SET proposal_id = excluded.proposal_id, destination = excluded.destination, account = excluded.account,
           account_name = excluded.account_name, note = excluded.note, evidence = excluded.evidence,
           proposed_by = excluded.proposed_by, proposed_at = excluded.proposed_at, expires_at = excluded.expires_at,
           confirmed_by = NULL, confirmed_at = NULL;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (wanted, propose_break_resolution.event_id, 'break.resolution_proposed', k.shop_id, k.mode,
            propose_break_resolution.at,
            json_build_object('break_id', wanted, 'proposal_id', new_proposal_id, 'destination', new_destination,
                              'account', new_account, 'account_name', new_account_name, 'note', new_note,
                              'evidence', new_evidence, 'by', who, 'expires_at', new_expires_at));
    RETURN 'proposed';
END;
$$;

-- A second person confirms: the proposal is marked, and the caller closes the break and posts its transfer in the same
-- transaction. 'confirmed'; 'exists' (this person's confirmation is booked already); 'settled'; 'unknown' (no such
-- proposal, or another one by now); 'expired'; 'same_person'. Locks: the provider's files, the break.
CREATE OR REPLACE FUNCTION confirm_break_resolution(
    at timestamptz, wanted uuid, wanted_proposal uuid, who text, event_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
    k reconciliation_break;
    known break_resolution;
    refusal text;
BEGIN
    PERFORM lock_reconciliation(b.shop_id, b.mode, b.provider) FROM reconciliation_break AS b WHERE b.break_id = wanted;
    SELECT * INTO k FROM reconciliation_break AS b WHERE b.break_id = wanted FOR UPDATE;
    SELECT * INTO known FROM break_resolution AS r WHERE r.break_id = wanted AND r.proposal_id = wanted_proposal;
    refusal := CASE
        WHEN known.break_id IS NULL THEN 'unknown'
        WHEN known.proposed_by = who THEN 'same_person'
        WHEN k.closed_at IS NOT NULL AND known.confirmed_by = who THEN 'exists'
        WHEN k.closed_at IS NOT NULL THEN 'settled'
        WHEN known.expires_at <= at THEN 'expired' END;
    IF refusal IS NOT NULL THEN RETURN refusal; END IF;
    UPDATE break_resolution AS r SET confirmed_by = who, confirmed_at = at WHERE r.break_id = wanted;
    INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
    VALUES (wanted, confirm_break_resolution.event_id, 'break.resolution_confirmed', k.shop_id, k.mode,
            confirm_break_resolution.at,
            json_build_object('break_id', wanted, 'proposal_id', known.proposal_id, 'destination', known.destination,
                              'account', known.account, 'account_name', known.account_name, 'note', known.note,
                              'evidence', known.evidence, 'proposed_by', known.proposed_by, 'by', who));
    RETURN 'confirmed';
END;
$$;

REVOKE ALL ON FUNCTION lock_reconciliation, propose_break_resolution, confirm_break_resolution FROM PUBLIC;
GRANT EXECUTE ON FUNCTION propose_break_resolution, confirm_break_resolution TO coatcheck_app;
