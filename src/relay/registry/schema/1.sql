-- Times are seconds since 1970.

CREATE TABLE principals (
    -- Never given twice: streams, policy and the audit log mean a principal by it.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('device', 'user')),
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoked', 'removed')),
    -- "key=value key=value", sorted.
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    -- When the state became what it is.
    changed INTEGER NOT NULL,
    -- When a link of it was last there; written late.
    seen INTEGER
) STRICT;

-- Only what is removed frees its name.
CREATE UNIQUE INDEX principals_name ON principals (kind, name) WHERE state <> 'removed';

CREATE TABLE keys (
    -- The SHA-256 of the key.
    pin BLOB PRIMARY KEY CHECK (length(pin) = 32),
    -- SubjectPublicKeyInfo, DER.
    key BLOB NOT NULL CHECK (length(key) = 44),
    principal INTEGER NOT NULL REFERENCES principals (id),
    added INTEGER NOT NULL,
    -- When this key alone was revoked; it then stays so.
    revoked INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_principal ON keys (principal);

CREATE TABLE tokens (
    id BLOB PRIMARY KEY CHECK (length(id) = 8),
    -- The SHA-256 of the secret.
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    kind TEXT NOT NULL CHECK (kind IN ('device', 'user')),
    -- A name, or of devices the beginning of names with '*' behind it.
    pattern TEXT NOT NULL,
    uses INTEGER NOT NULL CHECK (uses > 0),
    expires INTEGER NOT NULL,
    labels TEXT NOT NULL,
    -- Whether its keys wait for approval.
    pending INTEGER NOT NULL,
    -- Whether its key takes the place of the name's key.
    replace INTEGER NOT NULL,
    creator TEXT NOT NULL,
    created INTEGER NOT NULL,
    -- When it was deleted, or voided.
    void INTEGER
) STRICT, WITHOUT ROWID;

-- Which key burnt which token.
CREATE TABLE uses (
    token BLOB NOT NULL REFERENCES tokens (id),
    pin BLOB NOT NULL REFERENCES keys (pin),
    -- Where the key came from.
    address TEXT NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (token, pin)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER principals_stay BEFORE DELETE ON principals
BEGIN
    SELECT RAISE(ABORT, 'a principal''s record is never deleted');
END;

CREATE TRIGGER keys_stay BEFORE DELETE ON keys
BEGIN
    SELECT RAISE(ABORT, 'a key''s record is never deleted');
END;

CREATE TRIGGER keys_stay_revoked BEFORE UPDATE ON keys WHEN old.revoked IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked');
END;

CREATE TRIGGER uses_stay BEFORE DELETE ON uses
BEGIN
    SELECT RAISE(ABORT, 'a burnt token stays burnt');
END;
