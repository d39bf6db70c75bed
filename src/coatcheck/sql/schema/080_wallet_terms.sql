-- How sellers' money matures: the terms, what has been settled and when it is due, and balances at past moments. Nothing
-- here is written on the hot path: a background job finds by itself what has been settled.

INSERT INTO account_kind (kind, normal_side, may_overdraw, meaning) VALUES
    ('seller_reserve', 'credit', false, 'what is kept of a seller''s releases for a while, against refunds and disputes');

-- What a shop has agreed with a seller; without a row the settings hold. It holds for what is settled from now on.
-- `revision` counts the changes: clocks differ, and a replay must know the last one.
CREATE TABLE seller_terms (
    shop_id              uuid NOT NULL,
    mode                 text NOT NULL,
    seller_account       text NOT NULL,
    hold_days            integer NOT NULL,
    reserve_basis_points integer NOT NULL,
    reserve_days         integer NOT NULL,
    set_by               text NOT NULL,
    set_at               timestamptz NOT NULL,
    revision             integer NOT NULL DEFAULT 1,
    PRIMARY KEY (shop_id, mode, seller_account),
    CONSTRAINT seller_terms_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT seller_terms_hold_is_within_two_years CHECK (hold_days BETWEEN 0 AND 730),
    CONSTRAINT seller_terms_reserve_is_a_part CHECK (reserve_basis_points BETWEEN 0 AND 10000),
    CONSTRAINT seller_terms_reserve_is_within_two_years CHECK (reserve_days BETWEEN 0 AND 730)
);

-- One seller's money of one currency: its three accounts, what has matured of its charges ever, and how often anything
-- was moved. The row is the lock that every release passes, and `turn` names the transfers of each. No balance is here.
CREATE TABLE wallet (
    pending_id     uuid PRIMARY KEY,
    available_id   uuid NOT NULL,
    reserve_id     uuid NOT NULL,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    seller_account text NOT NULL,
    currency       text NOT NULL,
    matured_minor  bigint NOT NULL DEFAULT 0,
    turn           integer NOT NULL DEFAULT 0,
    CONSTRAINT wallet_matured_only_grows CHECK (matured_minor >= 0 AND turn >= 0)
) WITH (fillfactor = 70);

-- The seller's share of one charge or capture that a settlement file has told of: when it is due, under which terms, and
-- what became of it. `amount_minor` is NULL until the operation is decided. `released_minor` has left the pending
-- account, `reserved_minor` of it into the reserve; the rest of the amount has covered what refunds and disputes took.
CREATE TABLE maturing (
    operation_id         uuid PRIMARY KEY,
    pending_id           uuid NOT NULL,
    file_id              uuid NOT NULL,
    amount_minor         bigint,
    settled_at           timestamptz NOT NULL,
    due_at               timestamptz NOT NULL,
    reserve_basis_points integer NOT NULL,
    reserve_due_at       timestamptz NOT NULL,
    matured_at           timestamptz,
    released_minor       bigint NOT NULL DEFAULT 0,
    reserved_minor       bigint NOT NULL DEFAULT 0,
    reserve_ended_at     timestamptz,
    CONSTRAINT maturing_releases_what_was_captured CHECK (
        reserved_minor >= 0 AND reserved_minor <= released_minor AND released_minor <= coalesce(amount_minor, 0)
    ),
    CONSTRAINT maturing_is_decided_before_it_matures CHECK (matured_at IS NULL OR amount_minor >= 0)
) WITH (fillfactor = 70);
CREATE INDEX maturing_due ON maturing (due_at) WHERE matured_at IS NULL AND amount_minor IS NOT NULL;
CREATE INDEX maturing_reserve_due ON maturing (reserve_due_at) WHERE reserved_minor > 0 AND reserve_ended_at IS NULL;
CREATE INDEX maturing_undecided ON maturing (operation_id) WHERE amount_minor IS NULL;

-- How far the job has read each settlement file.
CREATE TABLE settled_reading (
    file_id uuid PRIMARY KEY,
    read_to integer NOT NULL,
    is_done boolean NOT NULL
);

-- Moments up to which the sellers' accounts were added up: each snapshot is the sum of all transfers *before* its mark. Made
-- of transfers alone and at any time again, so they are in no event. `is_checked`: all counters were compared with them.
CREATE TABLE balance_mark (
    at         timestamptz PRIMARY KEY,
    transfers  integer NOT NULL,
    is_checked boolean NOT NULL
);

-- An account's counters at a mark before which it has moved. `returned_minor`: of the credits, what was no charge.
CREATE TABLE balance_snapshot (
    account_id           uuid NOT NULL,
    at                   timestamptz NOT NULL,
    debits_posted_minor  bigint NOT NULL,
    credits_posted_minor bigint NOT NULL,
    debits_pending_minor bigint NOT NULL,
    returned_minor       bigint NOT NULL,
    PRIMARY KEY (account_id, at)
);

-- Transfers are written nearly in the order of their time, so 128 pages of them need one entry here, made afterwards by
-- autovacuum: a posting pays nothing that can be measured, and what is found is right whatever the ids are.
CREATE INDEX transfer_by_time ON transfer USING brin (at) WITH (autosummarize = on);

-- The accounts a wallet is read from.
CREATE VIEW wallet_account AS
SELECT * FROM account WHERE kind IN ('seller_pending', 'seller_available', 'seller_reserve', 'payouts_in_transit');

-- What each transfer did to the counters of its two accounts.
CREATE VIEW account_movement AS
SELECT leg.account_id, t.at, leg.debits_posted_minor, leg.credits_posted_minor, leg.debits_pending_minor, leg.returned_minor
  FROM transfer AS t
 CROSS JOIN LATERAL (
       SELECT CASE WHEN t.phase IN ('posted', 'captured') THEN t.amount_minor ELSE 0 END AS posted,
              CASE t.phase WHEN 'posted' THEN 0 WHEN 'held' THEN t.amount_minor ELSE -t.amount_minor END AS pending
 ) AS part
 CROSS JOIN LATERAL (VALUES
       (t.debit_account_id, part.posted, 0::bigint, part.pending, 0::bigint),
       (t.credit_account_id, 0::bigint, part.posted, 0::bigint, CASE t.kind WHEN 'charge' THEN 0 ELSE part.posted END)
 ) AS leg (account_id, debits_posted_minor, credits_posted_minor, debits_pending_minor, returned_minor);

GRANT SELECT ON seller_terms, wallet, maturing, settled_reading, balance_mark, balance_snapshot, wallet_account,
    account_movement TO coatcheck_app;
