-- What PSPs and banks say of our money, and where that is not what our books say. Nothing here is ever rewritten: a batch
-- that is issued again is another file, and what it changes is posted as a difference.

-- A file that was taken, whole or not at all. file_id is the hash of shop, mode, provider and content: again is no news.
CREATE TABLE settlement_file (
    file_id        uuid PRIMARY KEY,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    provider       text NOT NULL,
    format         text NOT NULL,
    name           text NOT NULL,
    content_digest bytea NOT NULL,
    lines          integer NOT NULL,
    received_at    timestamptz NOT NULL,
    received_by    text NOT NULL
);
CREATE INDEX settlement_file_by_time ON settlement_file (shop_id, mode, received_at);

-- Its lines, with the operation that each is about and what became of the comparison. Amounts in minor units, + is ours.
-- `asked_*`: of a charge or refund that the PSP has converted, what the buyer was charged or given back; else NULL.
CREATE TABLE settlement_line (
    file_id            uuid NOT NULL,
    line_no            integer NOT NULL,
    kind               text NOT NULL,
    batch              text NOT NULL,
    reference          text,
    provider_reference text,
    charge_reference   text,
    operation_id       uuid,
    occurred_at        timestamptz NOT NULL,
    currency           text NOT NULL,
    gross_minor        bigint NOT NULL,
    fee_minor          bigint NOT NULL,
    net_minor          bigint NOT NULL,
    asked_minor        bigint,
    asked_currency     text,
    verdict            text NOT NULL,
    PRIMARY KEY (file_id, line_no),
    CONSTRAINT settlement_line_adds_up CHECK (net_minor = gross_minor - fee_minor),
    CONSTRAINT settlement_line_is_converted_into_another_currency CHECK (
        (asked_minor IS NULL) = (asked_currency IS NULL) AND asked_currency <> currency)
);

-- Which line speaks for a record of ours: each is claimed once, whatever files say.
CREATE TABLE settled_record (
    operation_id uuid NOT NULL,
    kind         text NOT NULL,
    file_id      uuid NOT NULL,
    line_no      integer NOT NULL,
    PRIMARY KEY (operation_id, kind)
);

-- What the books have of each batch and currency by now. A batch that is issued again posts what is different.
-- `converted_minor`: what conversions brought into this currency, below zero what they took out of it.
CREATE TABLE settlement_batch (
    shop_id           uuid NOT NULL,
    mode              text NOT NULL,
    provider          text NOT NULL,
    batch             text NOT NULL,
    currency          text NOT NULL,
    version           integer NOT NULL,
    file_id           uuid NOT NULL,
    fee_minor         bigint NOT NULL,
    payout_minor      bigint NOT NULL,
    unexplained_minor bigint NOT NULL,
    converted_minor   bigint NOT NULL,
    PRIMARY KEY (shop_id, mode, provider, batch, currency)
) WITH (fillfactor = 70);

-- A break: where a file and the books differ. `expected_minor` is ours, `stated_minor` the file's; `suspense_minor` is what
-- of it stands in the suspense account until the break is closed. `moved`: how often it went along with a batch that was issued again, or
-- was opened again because of one.
CREATE TABLE reconciliation_break (
    break_id       uuid PRIMARY KEY,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    provider       text NOT NULL,
    kind           text NOT NULL,
    file_id        uuid,
    line_no        integer,
    batch          text,
    operation_id   uuid,
    currency       text,
    expected_minor bigint,
    stated_minor   bigint,
    suspense_minor bigint NOT NULL,
    detail         text NOT NULL,
    opened_at      timestamptz NOT NULL,
    closed_at      timestamptz,
    closed_by      text,
    reason         text,
    moved          integer NOT NULL DEFAULT 0,
    CONSTRAINT break_kind_is_known CHECK (kind IN (
        'missing_here', 'missing_at_psp', 'amount', 'currency', 'status', 'duplicate_line', 'duplicate_charge',
        'unexplained', 'control_total', 'fee', 'late')),
    CONSTRAINT break_is_closed_with_a_reason CHECK ((closed_at IS NULL) = (reason IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX reconciliation_break_by_file ON reconciliation_break (file_id, line_no);
CREATE INDEX reconciliation_break_by_closing ON reconciliation_break (closed_at) WHERE closed_at IS NOT NULL;
-- What several files tell of one record: each file asks for those of its own few records.
CREATE INDEX reconciliation_break_of_operation ON reconciliation_break (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX reconciliation_break_open ON reconciliation_break (shop_id, mode, provider, opened_at) WHERE closed_at IS NULL;

-- A bank statement's entries, of a file in settlement_file whose provider is 'bank'. `named_ids`: what its texts name of ours, as
-- it is printed for others to give back. `kind`, `provider`, `batch`, `verdict`: the payout that it was found to be when it came.
-- What it is by now is in matched_entry.
CREATE TABLE bank_line (
    file_id        uuid NOT NULL,
    line_no        integer NOT NULL,
    statement      text NOT NULL,
    account        text NOT NULL,
    booked_on      date NOT NULL,
    currency       text NOT NULL,
    amount_minor   bigint NOT NULL,
    bank_reference text,
    reference_list text[] NOT NULL,
    named_ids      uuid[] NOT NULL,
    kind           text,
    provider       text,
    batch          text,
    verdict        text NOT NULL,
    PRIMARY KEY (file_id, line_no)
);

-- The statements in banks' files. One of the same name, account, currency and opening balance that tells of days in common was
-- issued again: then the file that was taken last counts, and `replaced_by` says so in the earlier one.
CREATE TABLE bank_statement (
    file_id     uuid NOT NULL,
    account     text NOT NULL,
    currency    text NOT NULL,
    statement   text NOT NULL,
    shop_id     uuid NOT NULL,
    mode        text NOT NULL,
    first_on    date NOT NULL,
    last_on     date NOT NULL,
    opening_minor bigint,
    version     integer NOT NULL,
    replaced_by uuid,
    PRIMARY KEY (file_id, account, currency, statement)
);
CREATE INDEX bank_statement_that_counts ON bank_statement (shop_id, mode, account, currency, statement)
    WHERE replaced_by IS NULL;
CREATE INDEX bank_statement_replaced ON bank_statement (replaced_by) WHERE replaced_by IS NOT NULL;

-- Payouts that a bank has confirmed, each once: PSPs' (`payout`: the PSP's name for it, empty where it has none), those to
-- sellers that left our account there (`batch`: the run, or again the payout), and what of these came back. `match_id` names the
-- entries in matched_entry that are together what the payouts of the match are together.
CREATE TABLE confirmed_payout (
    shop_id      uuid NOT NULL,
    mode         text NOT NULL,
    kind         text NOT NULL,
    provider     text NOT NULL,
    batch        text NOT NULL,
    currency     text NOT NULL,
    payout       text NOT NULL,
    amount_minor bigint NOT NULL,
    match_id     uuid NOT NULL,
    PRIMARY KEY (shop_id, mode, kind, provider, batch, currency, payout),
    CONSTRAINT confirmed_payout_kind_is_known CHECK (kind IN ('psp_payout', 'seller_payout', 'seller_payout_returned'))
);
CREATE INDEX confirmed_payout_by_match ON confirmed_payout (match_id);

-- Entries of bank statements that are payouts: each once, whether its line was found to be one at once or later.
CREATE TABLE matched_entry (
    file_id  uuid NOT NULL,
    line_no  integer NOT NULL,
    match_id uuid NOT NULL,
    PRIMARY KEY (file_id, line_no)
);
CREATE INDEX matched_entry_by_match ON matched_entry (match_id);

-- The few lines of a file that say what was paid out.
CREATE INDEX settlement_line_of_payouts ON settlement_line (file_id, batch) WHERE kind = 'payout';

GRANT SELECT ON bank_line, bank_statement, confirmed_payout, matched_entry TO coatcheck_app;
GRANT SELECT ON settlement_file, settlement_line, settled_record, settlement_batch, reconciliation_break TO coatcheck_app;
