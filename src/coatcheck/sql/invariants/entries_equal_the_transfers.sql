-- Every account's last entry, with what is queued for it, is what its counters say: no statement lacks a transfer.
WITH tail AS MATERIALIZED (
    SELECT account_id, sum(debit_minor) AS debits_minor, sum(credit_minor) AS credits_minor
    FROM entry_tail GROUP BY account_id
)
SELECT account.account_id, name, debits_posted_minor, credits_posted_minor,
       coalesce(entry.debits_minor, 0) + coalesce(tail.debits_minor, 0) AS entered_debits,
       coalesce(entry.credits_minor, 0) + coalesce(tail.credits_minor, 0) AS entered_credits
FROM account
LEFT JOIN LATERAL (
    SELECT debits_minor, credits_minor FROM account_entry WHERE account_entry.account_id = account.account_id
    ORDER BY at DESC LIMIT 1
) AS entry ON true
LEFT JOIN tail ON tail.account_id = account.account_id
WHERE debits_posted_minor <> coalesce(entry.debits_minor, 0) + coalesce(tail.debits_minor, 0)
   OR credits_posted_minor <> coalesce(entry.credits_minor, 0) + coalesce(tail.credits_minor, 0)
