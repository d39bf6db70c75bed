-- What was taken over from a PSP: charges that our books have never had, or have forgotten.

-- A payment that was made of what a PSP has (hazards H6, G16). Until `completed_at` only the orders that the PSP knows are
-- there: the shop's own retry brings the rest.
CREATE TABLE adopted_payment (
    payment_id   uuid PRIMARY KEY,
    adopted_at   timestamptz NOT NULL,
    adopted_by   text NOT NULL,
    completed_at timestamptz
);

-- A restore from a backup, and the work that makes the books whole after it. While one is not finished, nobody asks a PSP
-- for money. `since`: from when the backup may know nothing.
CREATE TABLE recovery (
    recovery_id uuid PRIMARY KEY,
    since       timestamptz NOT NULL,
    begun_at    timestamptz NOT NULL,
    begun_by    text NOT NULL,
    finished_at timestamptz
);
CREATE UNIQUE INDEX recovery_is_one_at_a_time ON recovery ((true)) WHERE finished_at IS NULL;

GRANT SELECT ON adopted_payment, recovery TO coatcheck_app;
