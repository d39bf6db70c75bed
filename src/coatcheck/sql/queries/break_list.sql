-- Breaks, oldest first, after the place ($3, $4), at most $5. $1 shop and $2 mode: NULL is all. $6 open (true), closed (false)
-- or any (NULL); $7 kind and $8 provider: NULL is any. $9: only this break; NULL is any.
SELECT k.break_id, k.kind, k.file_id, k.line_no, k.batch, k.operation_id, k.currency, k.expected_minor, k.stated_minor,
       k.suspense_minor, k.detail, k.opened_at, k.closed_at, k.closed_by, k.reason,
       k.shop_id, k.mode, k.provider, f.name AS file_name,
       r.proposal_id, r.destination, r.account, r.account_name, r.note, r.evidence, r.proposed_by, r.proposed_at,
       r.expires_at, r.confirmed_by, r.confirmed_at
  FROM reconciliation_break AS k
  LEFT JOIN settlement_file AS f ON f.file_id = k.file_id
  LEFT JOIN break_resolution AS r ON r.break_id = k.break_id
 WHERE ($1::uuid IS NULL OR k.shop_id = $1) AND ($2::text IS NULL OR k.mode = $2)
   AND (k.opened_at, k.break_id) > ($3::timestamptz, $4::uuid)
   AND ($6::boolean IS NULL OR (k.closed_at IS NULL) = $6)
   AND ($7::text IS NULL OR k.kind = $7) AND ($8::text IS NULL OR k.provider = $8)
   AND ($9::uuid IS NULL OR k.break_id = $9)
 ORDER BY k.opened_at, k.break_id
 LIMIT $5
