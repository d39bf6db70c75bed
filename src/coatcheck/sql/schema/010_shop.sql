-- A shop is a caller: one API consumer. Test and live are separate worlds, kept apart by `mode` in every row.
CREATE TABLE shop (
    shop_id    uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT shop_name_is_unique UNIQUE (name)
);

-- The key itself is shown once and never stored: `key_digest` is its SHA-256 (the key has 160 random bits).
CREATE TABLE api_key (
    key_id     uuid PRIMARY KEY,
    shop_id    uuid NOT NULL REFERENCES shop,
    mode       text NOT NULL,
    key_digest bytea NOT NULL,
    prefix     text NOT NULL,
    last_four  text NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT api_key_digest_is_unique UNIQUE (key_digest),
    CONSTRAINT api_key_mode_is_known CHECK (mode IN ('test', 'live'))
);
