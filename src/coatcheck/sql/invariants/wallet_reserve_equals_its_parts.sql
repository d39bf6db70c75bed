-- What stands in a seller's reserve is what parts put there whose time is not over.
WITH kept AS (
    SELECT w.reserve_id AS account_id, coalesce(sum(m.reserved_minor) FILTER (WHERE m.reserve_ended_at IS NULL), 0) AS minor
      FROM wallet AS w LEFT JOIN maturing AS m ON m.pending_id = w.pending_id GROUP BY w.reserve_id
)
SELECT account_id, a.name, a.currency, a.credits_posted_minor - a.debits_posted_minor AS reserve_minor, kept.minor AS parts_minor
  FROM (SELECT * FROM account WHERE kind = 'seller_reserve') AS a FULL JOIN kept USING (account_id)
 WHERE coalesce(a.credits_posted_minor - a.debits_posted_minor, 0) <> coalesce(kept.minor, 0);
