-- Open accounts, each with its audit event in the same commit. $7 is the time, $8 the event ids, $9 their kind.
INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body)
SELECT account_id, event_id, $9::text, shop_id, mode, $7::timestamptz,
       json_build_object('name', name, 'kind', kind, 'currency', currency)
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $8::uuid[])
     AS item (account_id, shop_id, mode, name, kind, currency, event_id)
JOIN ledger_open_accounts($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz)
     AS account_id USING (account_id)
RETURNING subject_id AS account_id
