-- What people decide by hand, and what the watcher has called them for. None of it is on the hot path.

-- What one person says became of a dead letter, until a second person confirms it: one for each operation, the last one
-- proposed. Who they are: `key key_...` for an API key, `person ...` for a name given on the command line. History is in
-- the events.
CREATE TABLE resolution (
    operation_id       uuid PRIMARY KEY,
    proposal_id        uuid NOT NULL,
    word               text NOT NULL,
    provider_reference text,
    reason             text NOT NULL,
    proposed_by        text NOT NULL,
    proposed_at        timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    confirmed_by       text,
    confirmed_at       timestamptz,
    CONSTRAINT resolution_word_is_known CHECK (word IN ('charged', 'not_charged', 'done', 'not_done')),
    CONSTRAINT resolution_takes_two_people CHECK (confirmed_by <> proposed_by),
    CONSTRAINT resolution_is_confirmed_by_somebody CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL))
);

-- Dead letters that one person wants asked again, more at once than one person may, until a second person confirms it: each
-- with the attempt that was looked at. shop_id and mode NULL: of all, from the command line. History is in the events.
CREATE TABLE replay_proposal (
    replay_id     uuid PRIMARY KEY,
    shop_id       uuid,
    mode          text,
    operation_ids uuid[] NOT NULL,
    attempts      integer[] NOT NULL,
    proposed_by   text NOT NULL,
    proposed_at   timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    confirmed_by  text,
    confirmed_at  timestamptz,
    CONSTRAINT replay_proposal_takes_two_people CHECK (confirmed_by <> proposed_by),
    CONSTRAINT replay_proposal_is_confirmed_by_somebody CHECK ((confirmed_by IS NULL) = (confirmed_at IS NULL))
);

-- What somebody should look at, while it is so. The primary key is the arbiter: of any number of watchers one opens an
-- alert and one closes it. `subject_id` is whose events tell of it, `since` when the trouble began.
CREATE TABLE alert (
    kind       text NOT NULL,
    subject    text NOT NULL,
    subject_id uuid NOT NULL,
    shop_id    uuid NOT NULL,
    mode       text NOT NULL,
    since      timestamptz NOT NULL,
    detail     json NOT NULL,
    opened_at  timestamptz NOT NULL,
    PRIMARY KEY (kind, subject)
);

-- When a task that one gateway does for all was last begun.
CREATE TABLE watch_turn (
    task    text PRIMARY KEY,
    last_at timestamptz NOT NULL
);

-- The few events of this kind are looked for all the time; every other event only pays the comparison of its kind.
CREATE INDEX event_of_a_second_charge ON event (event_id) WHERE kind = 'order.charged_twice';

GRANT SELECT ON resolution, replay_proposal, alert, watch_turn TO coatcheck_app;
