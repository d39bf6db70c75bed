-- The only ways from one state to another, as states.py has them; a test walks every pair through the database.
CREATE OR REPLACE FUNCTION order_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (
        ('NOT_STARTED', 'EXECUTING'), ('NOT_STARTED', 'FAILED'), ('NOT_STARTED', 'CANCELLED'),
        ('EXECUTING', 'PENDING'), ('EXECUTING', 'AUTHORIZED'), ('EXECUTING', 'SUCCESS'), ('EXECUTING', 'FAILED'),
        ('EXECUTING', 'CANCELLED'),
        ('PENDING', 'AUTHORIZED'), ('PENDING', 'SUCCESS'), ('PENDING', 'FAILED'), ('PENDING', 'CANCELLED'),
        ('AUTHORIZED', 'SUCCESS'), ('AUTHORIZED', 'FAILED'), ('AUTHORIZED', 'CANCELLED'),
        -- by the PSP's later word: the money was taken after all (hazard A9)
        ('FAILED', 'SUCCESS'), ('FAILED', 'AUTHORIZED'), ('CANCELLED', 'SUCCESS'), ('CANCELLED', 'AUTHORIZED'));
$$;

CREATE OR REPLACE FUNCTION operation_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (
        ('OPEN', 'PENDING'), ('OPEN', 'APPROVED'), ('OPEN', 'DECLINED'), ('OPEN', 'UNRESOLVED'),
        ('PENDING', 'APPROVED'), ('PENDING', 'DECLINED'), ('PENDING', 'UNRESOLVED'),
        ('UNRESOLVED', 'OPEN'), ('UNRESOLVED', 'PENDING'), ('UNRESOLVED', 'APPROVED'), ('UNRESOLVED', 'DECLINED'),
        -- asked about again after the PSP's later word: a success after the end, an authorization that lapsed, a refund
        -- that came back (A9, D5, D6)
        ('DECLINED', 'PENDING'), ('APPROVED', 'PENDING'));
$$;

CREATE OR REPLACE FUNCTION refund_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (('PENDING', 'SUCCEEDED'), ('PENDING', 'FAILED'), ('SUCCEEDED', 'FAILED'));
$$;

-- An id, as ids.derive_id makes it.
CREATE OR REPLACE FUNCTION derived_id(VARIADIC parts text[]) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    SELECT encode(substr(sha256(convert_to(
        (SELECT string_agg(length(p) || ':' || p, '' ORDER BY n) FROM unnest(parts) WITH ORDINALITY AS u (p, n)),
        'UTF8')), 1, 16), 'hex')::uuid;
$$;

CREATE OR REPLACE FUNCTION hex_of(id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT replace(id::text, '-', ''); $$;

-- The id of an operation, as ids.py makes it: what SQL asks of a PSP has the same ticket as what Python asks.
CREATE OR REPLACE FUNCTION operation_id_of(order_id uuid, kind text, ticket text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(substr(sha256(convert_to(
        '2:op32:' || replace(order_id::text, '-', '') || length(kind) || ':' || kind
        || length(ticket) || ':' || ticket, 'UTF8')), 1, 16), 'hex')::uuid;
$$;

-- A dispute may become anything but an inquiry again.
CREATE OR REPLACE FUNCTION dispute_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT before <> after AND after <> 'INQUIRY';
$$;

-- Whether no refund may be given back beside a dispute that stands so (hazard D3).
CREATE OR REPLACE FUNCTION dispute_freezes(status text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT status IN ('NEEDS_RESPONSE', 'UNDER_REVIEW', 'LOST');
$$;
