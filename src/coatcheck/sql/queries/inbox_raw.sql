-- Stored events ($1), as they came.
SELECT i.inbox_id, i.provider, i.mode, i.raw FROM inbox AS i WHERE i.inbox_id = ANY ($1::uuid[])
