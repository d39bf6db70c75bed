-- The seals: a signed hash chain over the rows of `event` and `transfer`. `content` is, byte for byte, what was hashed
-- and signed; a roster has an entry for each row that the seal covers: its key and its digest. docs/audit.md has the
-- format. The same seals, without rosters, lie in the anchor outside the database.
CREATE TABLE seal (
    seal_no         bigint PRIMARY KEY,
    content         text NOT NULL,
    signature       bytea NOT NULL,
    event_roster    bytea NOT NULL,
    transfer_roster bytea NOT NULL,
    CONSTRAINT seal_counts_from_one CHECK (seal_no >= 1),
    CONSTRAINT seal_signature_is_ed25519 CHECK (octet_length(signature) = 64)
);
-- Digests do not compress; outside the row, a list of the seals does not read them.
ALTER TABLE seal ALTER COLUMN event_roster SET STORAGE EXTERNAL, ALTER COLUMN transfer_roster SET STORAGE EXTERNAL;

-- How far sealing has looked, as the sealer left it (NULL: nobody has yet). It decides what is sealed next; what is sealed
-- does not rest on it. `due_at`: by when somebody should have looked again; later than that, the watcher says so.
CREATE TABLE seal_progress (
    only_row boolean PRIMARY KEY DEFAULT true,
    due_at   timestamptz NOT NULL,
    state    json,
    CONSTRAINT seal_progress_has_one_row CHECK (only_row)
);

GRANT SELECT ON seal, seal_progress TO coatcheck_app;
