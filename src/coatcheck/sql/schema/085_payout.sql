-- Where a seller's money of one currency is paid to: a token of a provider's, never bank details. A changed destination
-- is not paid to before `usable_from`, so that whoever should not have changed it can be found out. `revision` counts the
-- changes, here and of a schedule.
CREATE TABLE payout_destination (
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    seller_account text NOT NULL,
    currency       currency_code NOT NULL,
    provider       text NOT NULL,
    token          text NOT NULL,
    changed_by     text NOT NULL,
    changed_at     timestamptz NOT NULL,
    usable_from    timestamptz NOT NULL,
    revision       integer NOT NULL DEFAULT 1,
    PRIMARY KEY (shop_id, mode, seller_account, currency),
    CONSTRAINT payout_destination_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT payout_destination_is_no_bank_account CHECK (token !~ '^[0-9 .-]*$')
);

-- When a seller's money of one currency is paid out unasked: at the times of a cron expression in UTC, and only from
-- `threshold_minor` on. `next_at` is the first of those times that is not done; NULL where there is no schedule any more.
CREATE TABLE payout_schedule (
    shop_id         uuid NOT NULL,
    mode            text NOT NULL,
    seller_account  text NOT NULL,
    currency        currency_code NOT NULL,
    cron            text,
    threshold_minor bigint NOT NULL,
    changed_by      text NOT NULL,
    changed_at      timestamptz NOT NULL,
    next_at         timestamptz,
    revision        integer NOT NULL DEFAULT 1,
    PRIMARY KEY (shop_id, mode, seller_account, currency),
    CONSTRAINT payout_schedule_threshold_is_positive_and_exact CHECK (threshold_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT payout_schedule_has_its_next_time CHECK ((cron IS NULL) = (next_at IS NULL))
);
CREATE INDEX payout_schedule_by_time ON payout_schedule (next_at) WHERE next_at IS NOT NULL;

-- Money on its way to a seller. `payout_id` is the hash of shop, mode and the request's key, so a key pays out once, for
-- ever; of an item of a run the key names the run. `destination` is the token as it was then.
CREATE TABLE payout (
    payout_id          uuid PRIMARY KEY,
    shop_id            uuid NOT NULL,
    mode               text NOT NULL,
    seller_account     text NOT NULL,
    currency           currency_code NOT NULL,
    amount_minor       bigint NOT NULL,
    provider           text NOT NULL,
    destination        text NOT NULL,
    key                text NOT NULL,
    request_digest     bytea NOT NULL,
    run_id             uuid,
    status             text NOT NULL,
    decline_code       text,
    provider_reference text,
    created_at         timestamptz NOT NULL,
    decided_at         timestamptz,
    CONSTRAINT payout_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT payout_amount_is_positive_and_exact CHECK (amount_minor BETWEEN 1 AND 9007199254740991),
    CONSTRAINT payout_status_is_known CHECK (status IN ('PENDING', 'PAID', 'FAILED', 'RETURNED'))
) WITH (fillfactor = 70);
CREATE INDEX payout_by_shop_and_age ON payout (shop_id, mode, created_at, payout_id);

-- One run of a schedule: all sellers who have this cron expression and currency, at one of its times. The id is the hash
-- of these, and the UNIQUE says it again: whoever runs it twice finds it. `usual_minor` is the median of the runs before,
-- NULL where there are none.
CREATE TABLE payout_run (
    run_id      uuid PRIMARY KEY,
    shop_id     uuid NOT NULL,
    mode        text NOT NULL,
    schedule    text NOT NULL,
    currency    currency_code NOT NULL,
    period      timestamptz NOT NULL,
    items       integer NOT NULL,
    total_minor bigint NOT NULL,
    usual_minor bigint,
    status      text NOT NULL,
    proposed_by text NOT NULL,
    proposed_at timestamptz NOT NULL,
    decided_by  text,
    decided_at  timestamptz,
    finished_at timestamptz,
    CONSTRAINT payout_run_is_one_period_of_a_schedule UNIQUE (shop_id, mode, schedule, currency, period),
    CONSTRAINT payout_run_status_is_known CHECK (status IN ('WAITING', 'APPROVED', 'REJECTED', 'FINISHED')),
    CONSTRAINT payout_run_total_is_exact CHECK (total_minor BETWEEN 0 AND 9007199254740991),
    CONSTRAINT payout_run_takes_two_people CHECK (decided_by <> proposed_by)
);
CREATE INDEX payout_run_under_way ON payout_run (period) WHERE status IN ('WAITING', 'APPROVED');
CREATE INDEX payout_run_by_shop_and_age ON payout_run (shop_id, mode, proposed_at, run_id);

-- What a run pays to whom. `planned_minor` is what the second person saw: less may be there when it is paid, more is
-- never taken. `outcome` is NULL until it was asked for. A seller is paid once a period, whatever becomes of schedules.
CREATE TABLE payout_run_item (
    run_id         uuid NOT NULL,
    seller_account text NOT NULL,
    shop_id        uuid NOT NULL,
    mode           text NOT NULL,
    currency       currency_code NOT NULL,
    period         timestamptz NOT NULL,
    payout_id      uuid NOT NULL,
    planned_minor  bigint NOT NULL,
    outcome        text,
    PRIMARY KEY (run_id, seller_account),
    CONSTRAINT payout_run_item_is_one_payout UNIQUE (payout_id),
    CONSTRAINT payout_run_item_pays_a_seller_once_a_period UNIQUE (shop_id, mode, seller_account, currency, period),
    CONSTRAINT payout_run_item_amount_is_positive_and_exact CHECK (planned_minor BETWEEN 1 AND 9007199254740991)
);
CREATE INDEX payout_run_item_to_do ON payout_run_item (run_id) WHERE outcome IS NULL;

GRANT SELECT ON payout_destination, payout_schedule, payout, payout_run, payout_run_item TO coatcheck_app;
