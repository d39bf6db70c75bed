-- Personal data lives here and nowhere else, so that it can be erased while the books stay whole.
CREATE TABLE buyer (
    buyer_id   uuid PRIMARY KEY,
    shop_id    uuid NOT NULL,
    mode       text NOT NULL,
    reference  text NOT NULL,
    email      text,
    name       text,
    country    text,
    ip         text,
    updated_at timestamptz NOT NULL
);

-- Which request a shop's idempotency key stands for; `claimed_by` is the nonce of the request that claimed it.
CREATE TABLE idempotency_key (
    key_id         uuid PRIMARY KEY,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    key            text NOT NULL,
    request_digest bytea NOT NULL,
    resource_id    uuid NOT NULL,
    claimed_by     uuid NOT NULL,
    created_at     timestamptz NOT NULL
);
CREATE INDEX idempotency_key_by_age ON idempotency_key USING brin (created_at);

-- One checkout. `accepted_by` is the nonce of the request that created it: how its sender knows the row is its own.
-- The status is derived from the orders, so the row never changes. `risk_subjects` are keyed digests (card, buyer, ip).
CREATE TABLE payment (
    payment_id     uuid PRIMARY KEY,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    checkout_id    text NOT NULL,
    request_digest bytea NOT NULL,
    accepted_by    uuid NOT NULL,
    buyer_id       uuid NOT NULL,
    order_ids      uuid[] NOT NULL,
    metadata       json,
    risk_decision  text NOT NULL,
    risk_signals   json NOT NULL,
    risk_subjects  uuid[] NOT NULL,
    created_at     timestamptz NOT NULL,
    CONSTRAINT payment_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT payment_has_orders CHECK (cardinality(order_ids) BETWEEN 1 AND 100)
);
CREATE INDEX payment_by_shop_and_age ON payment (shop_id, mode, created_at, payment_id);

-- One seller's part of a payment, charged on its own.
CREATE TABLE payment_order (
    order_id           uuid PRIMARY KEY,
    payment_id         uuid NOT NULL,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    payment_order_id   text NOT NULL,
    seller_account     text NOT NULL,
    amount_minor       bigint NOT NULL,
    commission_minor   bigint NOT NULL,
    currency           char(3) NOT NULL,
    provider           text NOT NULL,
    status             text NOT NULL,
    decline_code       text,
    provider_reference text,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT payment_order_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT payment_order_commission_is_within_amount CHECK (commission_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT payment_order_status_is_known CHECK (
        status IN ('NOT_STARTED', 'EXECUTING', 'PENDING', 'AUTHORIZED', 'SUCCESS', 'FAILED', 'CANCELLED')
    )
) WITH (fillfactor = 70);

-- One thing asked of a PSP: the intent, committed before any call, and what became of it.
CREATE TABLE operation (
    operation_id       uuid PRIMARY KEY,
    order_id           uuid NOT NULL,
    payment_id         uuid NOT NULL,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    kind               text NOT NULL,
    ordinal            smallint NOT NULL,
    provider           text NOT NULL,
    amount_minor       bigint NOT NULL,
    currency           char(3) NOT NULL,
    body               bytea NOT NULL,
    status             text NOT NULL,
    attempt            integer NOT NULL,
    first_sent_at      timestamptz,
    provider_reference text,
    decline_code       text,
    cause              text,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT operation_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT operation_status_is_known CHECK (status IN ('OPEN', 'APPROVED', 'DECLINED', 'UNRESOLVED'))
) WITH (fillfactor = 70);

-- Who works on an undecided operation, and from when anybody else may. The row is the fence: an answer is booked
-- only by whoever takes the row away with the attempt number it was given. Decided operations have no lease;
-- due_at is NULL where nothing but a look-up by a person may move it on.
CREATE TABLE lease (
    operation_id uuid PRIMARY KEY,
    attempt      integer NOT NULL,
    holder       uuid,
    due_at       timestamptz,
    CONSTRAINT lease_attempt_counts_from_one CHECK (attempt >= 1)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The audit trail: what happened to a subject (a payment, an account, a key), in order. Append-only.
CREATE TABLE event (
    subject_id uuid NOT NULL,
    event_id   uuid NOT NULL,
    kind       text NOT NULL,
    shop_id    uuid NOT NULL,
    mode       text NOT NULL,
    at         timestamptz NOT NULL,
    body       json NOT NULL,
    PRIMARY KEY (subject_id, event_id)
);

-- Failed attempts, counted by the risk rules' velocity limits. `subject` is a keyed digest, never a person's data.
CREATE TABLE risk_failure (
    subject uuid NOT NULL,
    at      timestamptz NOT NULL
);
CREATE INDEX risk_failure_by_subject ON risk_failure (subject, at);

-- The application role writes payments only through the functions that keep their rules; history it may only read.
GRANT SELECT ON buyer, idempotency_key, payment, payment_order, operation, lease, event, risk_failure TO coatcheck_app;
GRANT INSERT ON event TO coatcheck_app;
