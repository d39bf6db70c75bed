-- Counters of accounts ($1) at a moment ($2); $3 false: without the marks, by adding up every transfer.
SELECT account_id, debits_posted_minor, credits_posted_minor, debits_pending_minor, is_proven
FROM balances_at($1::uuid[], $2::timestamptz, $3::boolean)
