-- Every undecided operation has a lease, so that somebody will go on with it, and no decided one has.
SELECT operation_id, o.status, l.operation_id IS NOT NULL AS has_lease
  FROM operation AS o FULL JOIN lease AS l USING (operation_id)
 WHERE (o.status IN ('OPEN', 'PENDING', 'UNRESOLVED')) IS DISTINCT FROM (l.operation_id IS NOT NULL);
