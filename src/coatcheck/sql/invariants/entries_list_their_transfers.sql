-- An account's counters grow from entry to entry by what the transfers moved that the entry lists.
WITH grown AS (
    SELECT account_id, at,
           debits_minor - lag(debits_minor, 1, 0::bigint) OVER earlier AS debits_minor,
           credits_minor - lag(credits_minor, 1, 0::bigint) OVER earlier AS credits_minor
    FROM account_entry WINDOW earlier AS (PARTITION BY account_id ORDER BY at)
), listed AS (
    SELECT entry.account_id, entry.at, sum(amount_minor) FILTER (WHERE debit_account_id = account_id) AS debits_minor,
           sum(amount_minor) FILTER (WHERE credit_account_id = account_id) AS credits_minor
    FROM (SELECT account_id, at, unnest(transfer_ids) AS transfer_id FROM account_entry) AS entry
    JOIN transfer USING (transfer_id) GROUP BY entry.account_id, entry.at
)
SELECT account_id, at, grown.debits_minor, grown.credits_minor,
       coalesce(listed.debits_minor, 0) AS listed_debits, coalesce(listed.credits_minor, 0) AS listed_credits
FROM grown LEFT JOIN listed USING (account_id, at)
WHERE grown.debits_minor <> coalesce(listed.debits_minor, 0) OR grown.credits_minor <> coalesce(listed.credits_minor, 0);
