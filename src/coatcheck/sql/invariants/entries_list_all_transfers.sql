-- Every account's entries, with what is queued for it, list as many transfers as moved it: no line of a statement is missing.
WITH moved AS (
    SELECT account_id, count(*) AS transfers
    FROM (SELECT debit_account_id AS account_id FROM transfer WHERE phase IN ('posted', 'captured')
          UNION ALL SELECT credit_account_id FROM transfer WHERE phase IN ('posted', 'captured')) AS leg
    GROUP BY account_id
), listed AS (
    SELECT account_id, sum(transfers) AS transfers
    FROM (SELECT account_id, transfers FROM account_entry UNION ALL SELECT account_id, 1 FROM entry_tail) AS line
    GROUP BY account_id
)
SELECT account_id, moved.transfers AS moved, listed.transfers AS listed FROM moved FULL JOIN listed USING (account_id)
WHERE moved.transfers IS DISTINCT FROM listed.transfers;
