-- How often each subject of $1 failed since $2, counted up to $3. A subject without failures has no row.
SELECT s.subject, f.failures
  FROM unnest($1::uuid[]) AS s (subject)
 CROSS JOIN LATERAL (
       -- The inner limit keeps one much-tried card from costing more than the rules can use.
       SELECT count(*)::integer AS failures
         FROM (SELECT 1 FROM risk_failure AS r WHERE r.subject = s.subject AND r.at > $2 LIMIT $3) AS seen
       ) AS f
 WHERE f.failures > 0
