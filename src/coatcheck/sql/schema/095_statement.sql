-- What statements and reports are read from. All of it is made of the transfers, and can be made again (entries_rebuild):
-- docs/decisions/0024-statements.md.

-- Posted transfers that are no entries yet. Their batch's own commit writes the row, and the commit that makes them
-- entries takes it away: each is found once, however late it commits (hazard F9).
CREATE TABLE entry_queue (
    queue_id     uuid PRIMARY KEY,
    at           timestamptz NOT NULL,
    transfers    integer NOT NULL,
    transfer_ids uuid[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE entry_queue ALTER COLUMN transfer_ids SET STORAGE EXTERNAL;  -- ids do not get smaller by compressing

-- What one moment moved on an account: its transfers of that moment that count (posted or captured), in no order, and the
-- account's two posted counters as they stood after it. Transfers of one batch have one moment, so a provider's account, which is
-- in all of them, has one row for each batch. A page, and a balance at any moment, are one look into the primary key.
CREATE TABLE account_entry (
    account_id    uuid NOT NULL,
    at            timestamptz NOT NULL,
    transfers     integer NOT NULL,
    transfer_ids  uuid[] NOT NULL,
    debits_minor  bigint NOT NULL,
    credits_minor bigint NOT NULL,
    PRIMARY KEY (account_id, at),
    CONSTRAINT account_entry_has_its_transfers CHECK (transfers = cardinality(transfer_ids) AND transfers > 0),
    CONSTRAINT account_entry_counters_are_not_negative CHECK (debits_minor >= 0 AND credits_minor >= 0)
);
ALTER TABLE account_entry ALTER COLUMN transfer_ids SET STORAGE EXTERNAL;

-- What moved on a provider's or the platform's account on one day (UTC), by the transfers' kind and the kind of the account on
-- the other side. Sellers' accounts, of whom there are many, are in no report.
CREATE TABLE account_day (
    account_id    uuid NOT NULL,
    day           date NOT NULL,
    kind          text NOT NULL,
    counter_kind  text NOT NULL,
    debits_minor  bigint NOT NULL,
    credits_minor bigint NOT NULL,
    transfers     bigint NOT NULL,
    PRIMARY KEY (account_id, day, kind, counter_kind)
) WITH (fillfactor = 70);

-- The sides of the queued transfers: what entries would say if they were made by now. OFFSET 0 keeps the planner from
-- reading the whole of transfer for a few ids.
CREATE VIEW entry_tail AS
SELECT side.account_id, side.counter_id, movement.at, movement.transfer_id, movement.kind, side.debit_minor, side.credit_minor
  FROM entry_queue
 CROSS JOIN LATERAL unnest(transfer_ids) AS queued (queued_id)
 CROSS JOIN LATERAL (SELECT * FROM transfer WHERE transfer_id = queued_id OFFSET 0) AS movement
 CROSS JOIN LATERAL (VALUES (debit_account_id, credit_account_id, amount_minor, 0::bigint),
                            (credit_account_id, debit_account_id, 0::bigint, amount_minor))
       AS side (account_id, counter_id, debit_minor, credit_minor);

-- Payment volumes are read by the day of acceptance. A block range index costs the hot path next to nothing.
CREATE INDEX payment_order_by_age ON payment_order USING brin (created_at) WITH (autosummarize = on);

GRANT SELECT ON entry_queue, account_entry, account_day, entry_tail TO coatcheck_app;
