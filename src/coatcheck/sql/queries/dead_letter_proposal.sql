-- The last proposal about an operation. $1 operation_id
SELECT r.proposal_id, r.word, r.provider_reference, r.reason, r.proposed_by, r.proposed_at, r.expires_at, r.confirmed_by,
       r.confirmed_at
  FROM resolution AS r
 WHERE r.operation_id = $1
