-- Every snapshot of a seller's account is the sum of its transfers before the mark. An account that a late transfer has left
-- behind is excused: its readers see that, and the job makes its snapshots again.
WITH sums AS (
    SELECT * FROM balance_history(NULL)
), behind AS (
    SELECT account_id FROM unproven_accounts(ARRAY(SELECT account_id FROM wallet_account))
)
SELECT account_id, at, s.debits_posted_minor, s.credits_posted_minor, s.debits_pending_minor, s.returned_minor,
       h.debits_posted_minor AS debits_of_transfers, h.credits_posted_minor AS credits_of_transfers
  FROM balance_snapshot AS s FULL JOIN sums AS h USING (account_id, at)
 WHERE account_id NOT IN (SELECT account_id FROM behind)
   AND (s.debits_posted_minor, s.credits_posted_minor, s.debits_pending_minor, s.returned_minor)
       IS DISTINCT FROM (h.debits_posted_minor, h.credits_posted_minor, h.debits_pending_minor, h.returned_minor);
