-- The open breaks of a shop ($1) and mode ($2) by kind, and how many are up to 1, 5 and 30 days old at $3, and older.
SELECT k.kind,
       count(*) FILTER (WHERE g.age < interval '2 days') AS day_1,
       count(*) FILTER (WHERE g.age >= interval '2 days' AND g.age < interval '6 days') AS day_5,
       count(*) FILTER (WHERE g.age >= interval '6 days' AND g.age < interval '31 days') AS day_30,
       count(*) FILTER (WHERE g.age >= interval '31 days') AS older
  FROM reconciliation_break AS k
 CROSS JOIN LATERAL (SELECT $3::timestamptz - k.opened_at AS age) AS g
 WHERE k.shop_id = $1 AND k.mode = $2 AND k.closed_at IS NULL
 GROUP BY k.kind
 ORDER BY k.kind
