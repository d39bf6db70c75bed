-- How many posted transfers are no entries yet.
SELECT coalesce(sum(transfers), 0)::bigint FROM entry_queue
