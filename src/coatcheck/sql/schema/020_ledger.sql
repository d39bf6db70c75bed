-- What an account is for, which side makes it grow, and whether it may be overdrawn.
CREATE TABLE account_kind (
    kind          text PRIMARY KEY,
    normal_side   text NOT NULL,
    may_overdraw  boolean NOT NULL,
    meaning       text NOT NULL,
    CONSTRAINT account_kind_side_is_debit_or_credit CHECK (normal_side IN ('debit', 'credit'))
);

INSERT INTO account_kind (kind, normal_side, may_overdraw, meaning) VALUES
    ('psp_receivable',        'debit',  true,  'what a PSP has collected and owes us'),
    ('psp_payouts_in_transit', 'debit', true,  'what a PSP has paid out and our bank has not confirmed'),
    ('bank',                  'debit',  true,  'our account at a bank'),
    ('seller_pending',        'credit', true,  'what a seller earned and cannot be paid yet'),
    ('seller_available',      'credit', false, 'what a seller can be paid'),
    ('payouts_in_transit',    'credit', false, 'what is on its way to sellers'),
    ('platform_commission',   'credit', true,  'what the platform earned'),
    ('platform_psp_fees',     'debit',  true,  'what PSPs charged the platform'),
    ('platform_dispute_fees', 'debit',  true,  'what disputes cost the platform'),
    ('suspense',              'debit',  true,  'differences nobody has explained yet'),
    ('fx',                    'debit',  true,  'what a PSP has changed from one currency into another');

-- A domain, not a CHECK: proved when an account is opened, and not again at every change of its counters.
CREATE DOMAIN currency_code AS text CONSTRAINT currency_is_a_code CHECK (VALUE ~ '^[A-Z]{3}$');

-- One currency per account; four monotone counters. The balance is their difference, never stored on its own.
CREATE TABLE account (
    account_id            uuid PRIMARY KEY,
    shop_id               uuid NOT NULL,
    mode                  text NOT NULL,
    name                  text NOT NULL,
    kind                  text NOT NULL REFERENCES account_kind,
    currency              currency_code NOT NULL,
    debits_posted_minor   bigint NOT NULL DEFAULT 0,
    credits_posted_minor  bigint NOT NULL DEFAULT 0,
    debits_pending_minor  bigint NOT NULL DEFAULT 0,
    credits_pending_minor bigint NOT NULL DEFAULT 0,
    opened_at             timestamptz NOT NULL,
    CONSTRAINT account_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT account_counters_are_not_negative CHECK (
        debits_posted_minor >= 0 AND credits_posted_minor >= 0
        AND debits_pending_minor >= 0 AND credits_pending_minor >= 0
    )
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- A wallet is read by its accounts' names; the name is unique by the id, which is its hash.
CREATE INDEX account_by_name ON account (shop_id, mode, name);

-- One movement of one currency from a debit account to a credit account: balanced by construction. Append-only.
-- phase: 'posted' counts at once; 'held' is a hold (a pending transfer); 'captured' posts a hold, wholly or in part;
-- 'released' gives a hold's rest back. The currency is its accounts' own (ledger_post refuses any other).
CREATE TABLE transfer (
    transfer_id       uuid PRIMARY KEY,
    kind              text NOT NULL,
    phase             text NOT NULL,
    hold_id           uuid,
    debit_account_id  uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    amount_minor      bigint NOT NULL,
    currency          text NOT NULL,
    subject_id        uuid NOT NULL,
    at                timestamptz NOT NULL,
    CONSTRAINT transfer_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT transfer_moves_between_two_accounts CHECK (debit_account_id <> credit_account_id),
    CONSTRAINT transfer_phase_is_known CHECK (phase IN ('posted', 'held', 'captured', 'released')),
    CONSTRAINT transfer_names_the_hold_it_ends CHECK ((phase IN ('captured', 'released')) = (hold_id IS NOT NULL))
);

-- What is left of a hold. captured + released can never exceed what was held.
CREATE TABLE hold (
    hold_id           uuid PRIMARY KEY,
    debit_account_id  uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    currency          text NOT NULL,
    amount_minor      bigint NOT NULL,
    captured_minor    bigint NOT NULL DEFAULT 0,
    released_minor    bigint NOT NULL DEFAULT 0,
    CONSTRAINT hold_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT hold_is_never_overdrawn CHECK (
        captured_minor >= 0 AND released_minor >= 0 AND captured_minor + released_minor <= amount_minor
    )
) WITH (fillfactor = 70);
