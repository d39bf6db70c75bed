-- Make entries of what was posted before $1, at most about $2 transfers; returns how many.
SELECT entries_fill($1::timestamptz, $2::integer)
