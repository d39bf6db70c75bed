-- How many events wait to be handled, and how many of them for a person.
SELECT count(*) FILTER (WHERE due_at IS NOT NULL) AS waiting, count(*) FILTER (WHERE due_at IS NULL) AS dead
  FROM inbox_lease;
