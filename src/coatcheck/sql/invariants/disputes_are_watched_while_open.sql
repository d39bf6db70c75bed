-- Every open dispute will be asked about, and no other.
SELECT dispute_id, d.status, w.due_at
  FROM dispute AS d FULL JOIN dispute_watch AS w USING (dispute_id)
 WHERE coalesce(d.status IN ('INQUIRY', 'NEEDS_RESPONSE', 'UNDER_REVIEW'), false) <> (w.dispute_id IS NOT NULL);
