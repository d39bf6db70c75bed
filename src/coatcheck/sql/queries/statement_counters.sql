-- An account's ($1) posted counters at three places of its statement: as they stood before the moment $2, after the line
-- ($3, $4), and before the moment $5. Entries and what is queued for them are told apart by one snapshot.
WITH tail AS MATERIALIZED (
    SELECT at, transfer_id, debit_minor, credit_minor FROM entry_tail WHERE account_id = $1
), place (number, at, transfer_id) AS (
    VALUES (1, $2::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid), (2, $3::timestamptz, $4::uuid),
           (3, $5::timestamptz, '00000000-0000-0000-0000-000000000000'::uuid)
)
SELECT (coalesce(entry.debits_minor, 0) + within.debits_minor + queued.debits_minor)::bigint AS debits_minor,
       (coalesce(entry.credits_minor, 0) + within.credits_minor + queued.credits_minor)::bigint AS credits_minor
  FROM place
  LEFT JOIN LATERAL (
      SELECT debits_minor, credits_minor FROM account_entry
       WHERE account_id = $1 AND account_entry.at < place.at
       ORDER BY account_entry.at DESC LIMIT 1
  ) AS entry ON true
 CROSS JOIN LATERAL (  -- of the place's own moment, what comes up to the line
      SELECT coalesce(sum(amount_minor) FILTER (WHERE debit_account_id = $1), 0) AS debits_minor,
             coalesce(sum(amount_minor) FILTER (WHERE credit_account_id = $1), 0) AS credits_minor
        FROM account_entry
       CROSS JOIN LATERAL unnest(transfer_ids) AS listed (listed_id)
       CROSS JOIN LATERAL (SELECT * FROM transfer WHERE transfer_id = listed_id OFFSET 0) AS moved
       WHERE account_id = $1 AND account_entry.at = place.at AND listed_id <= place.transfer_id
  ) AS within
 CROSS JOIN LATERAL (
      SELECT coalesce(sum(debit_minor), 0) AS debits_minor, coalesce(sum(credit_minor), 0) AS credits_minor
        FROM tail WHERE (tail.at, tail.transfer_id) <= (place.at, place.transfer_id)
  ) AS queued
 ORDER BY number
