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
-- capture 'manual': the orders are only authorized. on_failure 'all_or_nothing': authorized first, captured together.
-- `return_url`: the buyer pays on the PSP's page and comes back there.
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
    capture        text NOT NULL,
    on_failure     text NOT NULL,
    return_url     text,
    created_at     timestamptz NOT NULL,
    CONSTRAINT payment_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT payment_capture_is_known CHECK (capture IN ('automatic', 'manual')),
    CONSTRAINT payment_on_failure_is_known CHECK (on_failure IN ('keep', 'all_or_nothing')),
    CONSTRAINT payment_has_orders CHECK (cardinality(order_ids) BETWEEN 1 AND 100)
);
CREATE INDEX payment_by_shop_and_age ON payment (shop_id, mode, created_at, payment_id);

-- One seller's part of a payment, charged on its own. What was reserved on the card, taken, and given back is counted
-- here, in minor units: one row that every capture and refund must pass, so that no race can take or give too much.
-- `refund_reserved_minor` is what refunds that have not failed ask for, of which `refunded_minor` has arrived;
-- `refund_commission_minor` is the commission's share of the reserved. `acting` is the one capture or void under way.
-- `expires_at`: until when the authorization lives.
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
    redirect_url       text,
    authorized_minor        bigint NOT NULL DEFAULT 0,
    captured_minor          bigint NOT NULL DEFAULT 0,
    refund_reserved_minor   bigint NOT NULL DEFAULT 0,
    refunded_minor          bigint NOT NULL DEFAULT 0,
    refund_commission_minor bigint NOT NULL DEFAULT 0,
    acting             uuid,
    is_disputed        boolean NOT NULL DEFAULT false,
    expires_at         timestamptz,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT payment_order_captures_what_was_authorized CHECK (
        captured_minor >= 0 AND captured_minor <= authorized_minor AND authorized_minor <= amount_minor
    ),
    CONSTRAINT payment_order_refunds_what_was_captured CHECK (
        refunded_minor >= 0 AND refunded_minor <= refund_reserved_minor AND refund_reserved_minor <= captured_minor
    ),
    CONSTRAINT payment_order_returns_its_own_commission CHECK (
        refund_commission_minor >= 0 AND refund_commission_minor <= refund_reserved_minor
        AND refund_commission_minor <= commission_minor
    ),
    CONSTRAINT payment_order_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT payment_order_commission_is_within_amount CHECK (commission_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT payment_order_status_is_known CHECK (
        status IN ('NOT_STARTED', 'EXECUTING', 'PENDING', 'AUTHORIZED', 'SUCCESS', 'FAILED', 'CANCELLED')
    )
) WITH (fillfactor = 70);

-- One thing asked of a PSP: the intent, committed before any call, and what became of it. `body` is the frozen request of
-- a charge or authorization; what acts on an earlier one is made of these columns alone, `target_reference` being the
-- PSP's id of that. `attempt` is the fence, raised by every claim; `tries` counts what used up the retry budget. `is_final`: nothing is captured after this capture. `is_hosted`: the buyer pays on the PSP's page.
CREATE TABLE operation (
    operation_id       uuid PRIMARY KEY,
    order_id           uuid NOT NULL,
    payment_id         uuid NOT NULL,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    kind               text NOT NULL,
    provider           text NOT NULL,
    amount_minor       bigint NOT NULL,
    currency           char(3) NOT NULL,
    body               bytea NOT NULL,
    target_reference   text,
    refund_id          uuid,
    is_final           boolean NOT NULL DEFAULT true,
    is_hosted          boolean NOT NULL DEFAULT false,
    status             text NOT NULL,
    attempt            integer NOT NULL,
    tries              integer NOT NULL DEFAULT 0,
    first_sent_at      timestamptz,
    provider_reference text,
    decline_code       text,
    cause              text,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT operation_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT operation_status_is_known CHECK (status IN ('OPEN', 'PENDING', 'APPROVED', 'DECLINED', 'UNRESOLVED')),
    CONSTRAINT operation_kind_is_known CHECK (kind IN ('charge', 'authorize', 'capture', 'void', 'refund', 'payout')),
    CONSTRAINT operation_of_a_refund_names_it CHECK ((kind = 'refund') = (refund_id IS NOT NULL))
) WITH (fillfactor = 70);

-- Who works on an undecided operation, and from when anybody else may. The row is the fence: an answer is booked
-- only by whoever takes the row away with the attempt number it was given. Decided operations have no lease;
-- due_at is NULL where nothing but a look-up by a person may move it on. `provider` is the operation's. `answered_at`: when
-- the PSP last said that it decides later; NULL where its last answer was no answer.
CREATE TABLE lease (
    operation_id uuid PRIMARY KEY,
    provider     text NOT NULL,
    attempt      integer NOT NULL,
    holder       uuid,
    due_at       timestamptz,
    answered_at  timestamptz,
    CONSTRAINT lease_attempt_counts_from_one CHECK (attempt >= 1)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Money that goes back to a buyer. `refund_id` is the hash of shop, mode and the request's key, so a key can give back
-- once, for ever. `commission_minor` is what the platform gives of it, the rest is the seller's.
CREATE TABLE refund (
    refund_id          uuid PRIMARY KEY,
    order_id           uuid NOT NULL,
    payment_id         uuid NOT NULL,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    key                text NOT NULL,
    request_digest     bytea NOT NULL,
    amount_minor       bigint NOT NULL,
    commission_minor   bigint NOT NULL,
    currency           char(3) NOT NULL,
    reason             text,
    status             text NOT NULL,
    decline_code       text,
    provider_reference text,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT refund_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT refund_commission_is_within_amount CHECK (commission_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT refund_status_is_known CHECK (status IN ('PENDING', 'SUCCEEDED', 'FAILED'))
) WITH (fillfactor = 70);
CREATE INDEX refund_by_order ON refund (order_id);

-- What was decided about an all-or-nothing checkout, once: 'capture' all, 'void' all, or 'undo' what was captured
-- before the PSP refused another's capture. The primary key is the arbiter.
CREATE TABLE checkout_decision (
    payment_id uuid PRIMARY KEY,
    decision   text NOT NULL,
    decided_at timestamptz NOT NULL,
    CONSTRAINT checkout_decision_is_known CHECK (decision IN ('capture', 'void', 'undo'))
);

-- Authorized orders, and when the PSP is to be asked whether the authorization still lives. A row while it does.
CREATE TABLE authorization_watch (
    order_id     uuid PRIMARY KEY,
    operation_id uuid NOT NULL,
    due_at       timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Orders that succeeded after they had been given up, and are to be given back by policy: a row until the refund is asked
-- for, or, of what was only authorized, until the order is over.
CREATE TABLE late_success (
    order_id uuid PRIMARY KEY,
    at       timestamptz NOT NULL
);

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
GRANT SELECT ON buyer, idempotency_key, payment, payment_order, operation, lease, event, risk_failure, refund,
    checkout_decision, authorization_watch, late_success TO coatcheck_app;
GRANT INSERT ON event TO coatcheck_app;
