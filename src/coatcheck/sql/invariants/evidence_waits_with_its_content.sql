-- What is to be passed on to a PSP has its content, and nothing else is kept of what a shop has said to a dispute.
SELECT evidence_id, e.status, p.attempt
  FROM dispute_evidence AS e FULL JOIN evidence_parcel AS p USING (evidence_id)
 WHERE coalesce(e.status = 'PENDING', false) <> (p.evidence_id IS NOT NULL);
