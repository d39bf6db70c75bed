-- Answers to disputes that are to be passed on ($1), with all that sending them needs.
SELECT e.evidence_id, e.dispute_id, e.kind, e.ends_it, d.order_id, d.mode, d.provider, d.provider_reference, d.status,
       p.attempt, p.first_sent_at, p.body
  FROM evidence_parcel AS p
  JOIN dispute_evidence AS e ON e.evidence_id = p.evidence_id
  JOIN dispute AS d ON d.dispute_id = e.dispute_id
 WHERE p.evidence_id = ANY ($1::uuid[])
