-- What PSPs tell us: raw bytes and headers, kept before anything else is done with them (C12). The id is the hash of
-- provider, mode, account and the PSP's event id, so an event is stored once however often it comes (C3).
CREATE TABLE inbox (
    inbox_id    uuid PRIMARY KEY,
    provider    text NOT NULL,
    mode        text NOT NULL,
    account     text NOT NULL,
    event_id    text NOT NULL,
    headers     json NOT NULL,
    raw         bytea NOT NULL,
    received_at timestamptz NOT NULL,
    outcome     text,
    handled_at  timestamptz,
    CONSTRAINT inbox_mode_is_known CHECK (mode IN ('test', 'live')),
    CONSTRAINT inbox_outcome_is_known CHECK (
        outcome IN ('applied', 'no_effect', 'unmatched', 'unknown_type', 'refused', 'charged_twice', 'dismissed')
    )
) WITH (fillfactor = 80);

-- Events that are not handled yet: who works on one, and from when anybody else may. due_at NULL: a dead letter. `attempt`
-- fences, and counts every claim; `tries` counts those that failed for a reason of the event's own.
CREATE TABLE inbox_lease (
    inbox_id uuid PRIMARY KEY,
    attempt  integer NOT NULL,
    tries    integer NOT NULL DEFAULT 0,
    due_at   timestamptz,
    cause    text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

GRANT SELECT ON inbox, inbox_lease TO coatcheck_app;
