-- A buyer's claim against a charge, as the PSP tells it. dispute_id is the hash of shop, mode, provider and the PSP's id of
-- it. Amount and currency are the PSP's word and need not be the order's; an order may have several (hazard D7).
-- `word_no`: how late in the dispute's life the PSP's last word is, by the PSP's own count; an earlier one never takes the
-- place of a later one. NULL: only a settlement file has told of it. Every change passes the order's row first, and raises
-- `revision`.
CREATE TABLE dispute (
    dispute_id         uuid PRIMARY KEY,
    order_id           uuid NOT NULL,
    payment_id         uuid NOT NULL,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    provider           text NOT NULL,
    provider_reference text NOT NULL,
    amount_minor       bigint NOT NULL,
    currency           currency_code NOT NULL,
    reason             text,
    status             text NOT NULL,
    evidence_due_at    timestamptz,
    word_no            bigint,
    opened_at          timestamptz NOT NULL,
    changed_at         timestamptz NOT NULL,
    revision           integer NOT NULL DEFAULT 1,
    CONSTRAINT dispute_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT dispute_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT dispute_status_is_known CHECK (
        status IN ('INQUIRY', 'NEEDS_RESPONSE', 'UNDER_REVIEW', 'WON', 'LOST', 'CLOSED')
    )
) WITH (fillfactor = 70);
CREATE INDEX dispute_by_order ON dispute (order_id);
CREATE INDEX dispute_by_shop_and_age ON dispute (shop_id, mode, opened_at, dispute_id);

-- Money that the PSP took or gave back for a dispute. Signs are those of the PSP's balance with us: a chargeback's gross is
-- below zero, its fee above; net = gross - fee. `ordinal` counts those of one sign within the dispute, from 1, so that the
-- primary key, its hash, is the arbiter. `name`: the PSP's own name of it in its words; NULL while only a file has told of it.
CREATE TABLE dispute_movement (
    movement_id uuid PRIMARY KEY,
    dispute_id  uuid NOT NULL,
    is_taken    boolean NOT NULL,
    ordinal     integer NOT NULL,
    name        text,
    gross_minor bigint NOT NULL,
    fee_minor   bigint NOT NULL,
    currency    currency_code NOT NULL,
    moved_at    timestamptz NOT NULL,
    booked_at   timestamptz NOT NULL,
    CONSTRAINT dispute_movement_has_its_place UNIQUE (dispute_id, is_taken, ordinal),
    CONSTRAINT dispute_movement_is_named_once UNIQUE (dispute_id, name),
    CONSTRAINT dispute_movement_is_taken_or_given CHECK (
        (gross_minor < 0 OR gross_minor = 0 AND fee_minor > 0) = is_taken AND (gross_minor <> 0 OR fee_minor <> 0)
    ),
    CONSTRAINT dispute_movement_amounts_are_exact CHECK (
        abs(gross_minor) <= 9007199254740991 AND abs(fee_minor) <= 9007199254740991
    )
) WITH (fillfactor = 70);

-- Which line of a settlement file speaks for a movement: one, and each line for one only.
CREATE TABLE settled_movement (
    movement_id uuid PRIMARY KEY,
    file_id     uuid NOT NULL,
    line_no     integer NOT NULL,
    occurred_at timestamptz NOT NULL,
    CONSTRAINT settled_movement_speaks_for_one UNIQUE (file_id, line_no)
);

-- Open disputes, and when the PSP is to be asked how they stand: events may be lost (C14). A row while one is open.
CREATE TABLE dispute_watch (
    dispute_id uuid PRIMARY KEY,
    provider   text NOT NULL,
    due_at     timestamptz NOT NULL
) WITH (fillfactor = 70);

-- What a shop has said to a dispute: the intent, committed before the PSP hears of it, and what became of it. evidence_id is
-- the hash of the dispute and the request's key. `manifest` lists the parts by name, size and SHA-256; their content is
-- passed on and not kept. `ends_it`: nothing can be added afterwards.
CREATE TABLE dispute_evidence (
    evidence_id    uuid PRIMARY KEY,
    dispute_id     uuid NOT NULL,
    order_id       uuid NOT NULL,
    payment_id     uuid NOT NULL,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    provider       text NOT NULL,
    key            text NOT NULL,
    kind           text NOT NULL,
    request_digest bytea NOT NULL,
    manifest       json NOT NULL,
    ends_it        boolean NOT NULL,
    requested_by   text NOT NULL,
    status         text NOT NULL,
    refusal_code   text,
    created_at     timestamptz NOT NULL,
    decided_at     timestamptz,
    CONSTRAINT dispute_evidence_kind_is_known CHECK (kind IN ('evidence', 'acceptance')),
    CONSTRAINT dispute_evidence_status_is_known CHECK (status IN ('PENDING', 'SENT', 'REFUSED')),
    CONSTRAINT dispute_evidence_is_decided_at_a_time CHECK ((status = 'PENDING') = (decided_at IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX dispute_evidence_by_dispute ON dispute_evidence (dispute_id);

-- What is still to be passed on: the frozen content, here until the PSP has it and nowhere afterwards, and who works on it
-- until when. `attempt` is the fence.
CREATE TABLE evidence_parcel (
    evidence_id   uuid PRIMARY KEY,
    attempt       integer NOT NULL,
    due_at        timestamptz NOT NULL,
    first_sent_at timestamptz,
    cause         text,
    body          bytea NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT ON dispute, dispute_movement, settled_movement, dispute_watch, dispute_evidence, evidence_parcel TO coatcheck_app;
