-- The open alerts, longest-standing first.
SELECT kind, subject, since, opened_at, detail::text AS detail FROM alert ORDER BY since, kind, subject
