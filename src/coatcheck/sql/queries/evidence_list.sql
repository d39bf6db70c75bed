-- What shops have said to disputes ($1), oldest first.
SELECT e.evidence_id, e.dispute_id, e.kind, e.manifest::text AS manifest, e.ends_it, e.requested_by, e.status, e.refusal_code,
       p.cause, p.attempt, e.created_at, e.decided_at
  FROM dispute_evidence AS e LEFT JOIN evidence_parcel AS p ON p.evidence_id = e.evidence_id
 WHERE e.dispute_id = ANY ($1::uuid[])
 ORDER BY e.dispute_id, e.created_at, e.evidence_id
