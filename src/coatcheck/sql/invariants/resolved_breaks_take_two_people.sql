-- A break that people closed was proposed by one and confirmed by another.
SELECT break_id, proposed_by, confirmed_by
  FROM break_resolution
 WHERE confirmed_by IS NOT NULL AND (confirmed_by = proposed_by OR NOT EXISTS (
           SELECT FROM reconciliation_break AS k WHERE k.break_id = break_resolution.break_id AND k.closed_at IS NOT NULL));
