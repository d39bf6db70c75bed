-- A shop is a caller: one API consumer. Test and live are separate worlds, kept apart by `mode` in every row.
CREATE TABLE shop (
    shop_id    uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT shop_name_is_unique UNIQUE (name)
);

-- The key itself is shown once and never stored: `key_digest` is its SHA-256 (the key has over 160 random bits), and
-- `key_id` is named by the digest, so that the primary key is the look-up of every request.
CREATE TABLE api_key (
    key_id     uuid PRIMARY KEY,
    shop_id    uuid NOT NULL REFERENCES shop,
    mode       text NOT NULL,
    key_digest bytea NOT NULL,
    prefix     text NOT NULL,
    last_four  text NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT api_key_digest_is_sha256 CHECK (octet_length(key_digest) = 32),
    CONSTRAINT api_key_mode_is_known CHECK (mode IN ('test', 'live'))
);

GRANT SELECT, INSERT ON shop, api_key TO coatcheck_app;
GRANT UPDATE (revoked_at) ON api_key TO coatcheck_app;
