-- Every account's four counters are the sums of its transfers: nothing was counted without a transfer, or lost.
WITH leg AS (
    SELECT debit_account_id AS account_id, phase, amount_minor AS debit_minor, 0 AS credit_minor FROM transfer
    UNION ALL
    SELECT credit_account_id, phase, 0, amount_minor FROM transfer
), counted AS (
    SELECT account_id,
           coalesce(sum(debit_minor) FILTER (WHERE phase IN ('posted', 'captured')), 0) AS debits_posted,
           coalesce(sum(credit_minor) FILTER (WHERE phase IN ('posted', 'captured')), 0) AS credits_posted,
           coalesce(sum(debit_minor) FILTER (WHERE phase = 'held'), 0)
           - coalesce(sum(debit_minor) FILTER (WHERE phase IN ('captured', 'released')), 0) AS debits_pending,
           coalesce(sum(credit_minor) FILTER (WHERE phase = 'held'), 0)
           - coalesce(sum(credit_minor) FILTER (WHERE phase IN ('captured', 'released')), 0) AS credits_pending
    FROM leg GROUP BY account_id
)
SELECT account_id, account.name, counted.*
FROM account FULL JOIN counted USING (account_id)
WHERE account.account_id IS NULL
   OR debits_posted_minor <> coalesce(debits_posted, 0) OR credits_posted_minor <> coalesce(credits_posted, 0)
   OR debits_pending_minor <> coalesce(debits_pending, 0) OR credits_pending_minor <> coalesce(credits_pending, 0)
