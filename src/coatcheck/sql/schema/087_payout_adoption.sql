-- A payout that was taken over from a PSP, because the books were restored from a backup of before it (hazard G16).
-- `ahead_minor`: what of it the seller's pending account has paid, for a settlement that had made it available was forgotten
-- as well. `recognised_at`: when the shop came again with the key; an item of a run has nobody who would.
CREATE TABLE adopted_payout (
    payout_id     uuid PRIMARY KEY,
    ahead_minor   bigint NOT NULL,
    adopted_at    timestamptz NOT NULL,
    adopted_by    text NOT NULL,
    recognised_at timestamptz,
    CONSTRAINT adopted_payout_is_ahead_by_no_less_than_nothing CHECK (ahead_minor >= 0)
);

GRANT SELECT ON adopted_payout TO coatcheck_app;
