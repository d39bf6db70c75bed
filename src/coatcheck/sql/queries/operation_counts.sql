-- How much is undecided, how much of it waits for a person, and what PostgreSQL says of deadlocks.
SELECT count(*) FILTER (WHERE due_at IS NOT NULL) AS open_operations,
       count(*) FILTER (WHERE due_at IS NULL) AS unresolved_operations,
       (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks
  FROM lease;
