-- What reconciliation does by itself: which files it waits for, its nightly run, and the breaks it has called somebody for.

-- The day that a file is about: that of its last movement, in UTC.
CREATE TABLE file_day (
    file_id  uuid PRIMARY KEY,
    shop_id  uuid NOT NULL,
    mode     text NOT NULL,
    provider text NOT NULL,
    day      date NOT NULL
);
CREATE INDEX file_day_by_day ON file_day (shop_id, mode, provider, day);

-- A day's file that must be here until `due_at`, and the one that came.
CREATE TABLE expected_file (
    shop_id    uuid NOT NULL,
    mode       text NOT NULL,
    provider   text NOT NULL,
    day        date NOT NULL,
    due_at     timestamptz NOT NULL,
    file_id    uuid,
    arrived_at timestamptz,
    PRIMARY KEY (shop_id, mode, provider, day),
    CONSTRAINT expected_file_arrives_as_a_file CHECK ((file_id IS NULL) = (arrived_at IS NULL))
);
CREATE INDEX expected_file_missing ON expected_file (shop_id, mode, due_at) WHERE file_id IS NULL;

-- The nightly reconciliation of a day: the row is the turn, so of any number of gateways one runs it. Whoever begins it has
-- it until `lease_until`; one that did not end is taken up again.
CREATE TABLE nightly_run (
    shop_id     uuid NOT NULL,
    mode        text NOT NULL,
    day         date NOT NULL,
    attempt     integer NOT NULL,
    lease_until timestamptz NOT NULL,
    ended_at    timestamptz,
    taken       integer,
    refused     integer,
    PRIMARY KEY (shop_id, mode, day),
    CONSTRAINT nightly_run_ends_with_its_counts CHECK (
        (ended_at IS NULL) = (taken IS NULL) AND (ended_at IS NULL) = (refused IS NULL))
);

-- Breaks that somebody is called for, while they are open.
CREATE TABLE escalated_break (
    break_id     uuid PRIMARY KEY,
    escalated_at timestamptz NOT NULL
);

-- What a batch leaves of itself when its file is taken: its movements, less its fees and what it paid out. Zero once it is
-- paid out whole. `told_at` is its last movement. A batch that is issued again has the last word.
CREATE TABLE batch_rest (
    shop_id    uuid NOT NULL,
    mode       text NOT NULL,
    provider   text NOT NULL,
    batch      text NOT NULL,
    currency   text NOT NULL,
    file_id    uuid NOT NULL,
    rest_minor bigint NOT NULL,
    told_at    timestamptz NOT NULL,
    PRIMARY KEY (shop_id, mode, provider, batch, currency)
) WITH (fillfactor = 70);

CREATE INDEX reconciliation_break_of_a_file_that_is_late ON reconciliation_break (break_id)
    WHERE kind = 'late' AND file_id IS NULL AND closed_at IS NULL;

GRANT SELECT ON file_day, expected_file, nightly_run, escalated_break, batch_rest TO coatcheck_app;
