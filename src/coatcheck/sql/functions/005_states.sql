-- The only ways from one state to another, as states.py has them; a test walks every pair through the database.
CREATE OR REPLACE FUNCTION order_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (
        ('NOT_STARTED', 'EXECUTING'), ('NOT_STARTED', 'FAILED'), ('NOT_STARTED', 'CANCELLED'),
        ('EXECUTING', 'PENDING'), ('EXECUTING', 'AUTHORIZED'), ('EXECUTING', 'SUCCESS'), ('EXECUTING', 'FAILED'),
        ('PENDING', 'AUTHORIZED'), ('PENDING', 'SUCCESS'), ('PENDING', 'FAILED'), ('PENDING', 'CANCELLED'),
        ('AUTHORIZED', 'SUCCESS'), ('AUTHORIZED', 'FAILED'), ('AUTHORIZED', 'CANCELLED'));
$$;

CREATE OR REPLACE FUNCTION operation_may_become(before text, after text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (before, after) IN (
        ('OPEN', 'APPROVED'), ('OPEN', 'DECLINED'), ('OPEN', 'UNRESOLVED'),
        ('UNRESOLVED', 'APPROVED'), ('UNRESOLVED', 'DECLINED'));
$$;
