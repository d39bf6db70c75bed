-- Post a batch; only what was not simply posted comes back. $10 is the time of posting.
SELECT position, outcome
FROM ledger_post($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::bigint[], $8::text[],
                 $9::uuid[], $10::timestamptz)
WHERE outcome <> 'posted'
