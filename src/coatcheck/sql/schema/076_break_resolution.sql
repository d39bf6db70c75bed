-- What one person says a break is, and where the money of it belongs, until a second person confirms it: one for each break,
-- the last one proposed. `destination` and `account` say it in words, `account_name` is the ledger's; NULL where nothing
-- stands in suspense. Who they are: as in `resolution`. History is in the events.
CREATE TABLE break_resolution (
    break_id     uuid PRIMARY KEY,
    proposal_id  uuid NOT NULL,
    destination  text NOT NULL,
    account      text,
    account_name text,
    note         text NOT NULL,
    evidence     text NOT NULL,
    proposed_by  text NOT NULL,
    proposed_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    confirmed_by text,
    confirmed_at timestamptz,
    CONSTRAINT break_resolution_destination_is_known CHECK (destination IN (
        'fee', 'dispute_fee', 'commission', 'seller', 'bank', 'receivable', 'payout', 'nothing')),
    CONSTRAINT break_resolution_names_an_account CHECK ((destination = 'nothing') = (account_name IS NULL)),
    CONSTRAINT break_resolution_takes_two_people CHECK (confirmed_by <> proposed_by),
    CONSTRAINT break_resolution_is_confirmed_by_somebody CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL))
);

-- The list of breaks, page by page.
CREATE INDEX reconciliation_break_by_age ON reconciliation_break (shop_id, mode, opened_at, break_id);

GRANT SELECT ON break_resolution TO coatcheck_app;

-- From when to when a settlement file tells of charges.
CREATE TABLE settlement_reach (
    file_id  uuid PRIMARY KEY,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL
);
GRANT SELECT ON settlement_reach TO coatcheck_app;
