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

INSERT INTO principals (id, kind, name, state, labels, created, changed, seen) VALUES
    (1, 'device', 'pump-1', 'active', 'line=7 site=berlin', 1799999900, 1799999900, 1800000005),
    (2, 'device', 'pump-2', 'revoked', '', 1799999910, 1799999950, NULL),
    (3, 'device', 'pump-3', 'pending', '', 1799999920, 1799999920, NULL),
    (4, 'device', 'pump-4', 'removed', '', 1799999930, 1799999960, 1799999940),
    (5, 'device', 'pump-5', 'removed', '', 1799999940, 1799999970, NULL),
    (6, 'device', 'line7-press', 'active', '', 1799999950, 1799999950, NULL),
    (7, 'user', 'alice', 'active', '', 1799999960, 1799999960, NULL);
INSERT INTO keys (pin, key, principal, added, revoked) VALUES
    (x'147d425ffc56ff1af8b8f66db84622c8691e004d3d8f7f11a9a7b6cd7a9eb8c3',
     x'302a300506032b6570032100000000015a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 1, 1799999900, 1799999980),
    (x'73661f87336999e043731b24abcb44203844220ba71962551119b9f80c1d5d87',
     x'302a300506032b65700321000000000b5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 1, 1799999980, NULL),
    (x'2a599968557314bcc2474559b06a4a7af22bdee0bb88a5a0463f18a8f5a1cf81',
     x'302a300506032b6570032100000000025a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 2, 1799999910, NULL),
    (x'35e31f988964af1643fe0aa4e97080e6f8d4d9254e7974072450275cac1e7e43',
     x'302a300506032b6570032100000000035a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 3, 1799999920, NULL),
    (x'2bf117c01847f052e65bd3af37e69c10494871f6d0dae72d9a82bffcb4fb3bfe',
     x'302a300506032b6570032100000000045a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 4, 1799999930, NULL),
    (x'298204eb5e2e4c5c66e19370f8a1ffe988432645affc464905f866cfd97effda',
     x'302a300506032b6570032100000000055a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 5, 1799999940, 1799999970),
    (x'57ec218402e0a2f0e644efc85dc02cc7ff60c4b6b3e937e4afc3116e41aa33ac',
     x'302a300506032b6570032100000000065a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 6, 1799999950, NULL),
    (x'3f7a4ad7b41de86f3a587367047b320e00e3558dbbeba66f5a9ad7d8591ffd94',
     x'302a300506032b6570032100000000075a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 7, 1799999960, NULL),
    (x'b706a40f84e9e3f85162ad8778c260b8b402b41539ed531181744a481812495d',
     x'302a300506032b6570032100000000085a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', 7, 1799999970, NULL);
INSERT INTO tokens (id, secret, kind, pattern, uses, expires, labels, pending, replace, creator, created, void) VALUES
    (x'0101010101010101', x'0707070707070707070707070707070707070707070707070707070707070707',
     'device', 'pump-1', 1, 1800003600, '', 0, 1, 'root', 1799999800, NULL),
    (x'0303030303030303', x'0707070707070707070707070707070707070707070707070707070707070707',
     'device', 'pump-3', 1, 1800003600, '', 1, 0, 'root', 1799999800, NULL),
    (x'0404040404040404', x'0707070707070707070707070707070707070707070707070707070707070707',
     'device', 'pump-4', 1, 1800003600, '', 0, 0, 'root', 1799999800, NULL),
    (x'0808080808080808', x'0707070707070707070707070707070707070707070707070707070707070707',
     'device', 'line7-*', 3, 1800003600, '', 0, 0, 'root', 1799999800, NULL),
    (x'0909090909090909', x'0707070707070707070707070707070707070707070707070707070707070707',
     'device', 'pump-9', 1, 1800003600, '', 0, 0, 'root', 1799999800, 1799999995),
    (x'0707070707070707', x'0707070707070707070707070707070707070707070707070707070707070707',
     'user', 'alice', 2, 1800003600, '', 0, 0, 'root', 1799999800, NULL);
INSERT INTO uses (token, pin, address, used) VALUES
    (x'0101010101010101', x'73661f87336999e043731b24abcb44203844220ba71962551119b9f80c1d5d87', '192.0.2.1', 1799999980),
    (x'0303030303030303', x'35e31f988964af1643fe0aa4e97080e6f8d4d9254e7974072450275cac1e7e43', '192.0.2.3', 1799999920),
    (x'0404040404040404', x'2bf117c01847f052e65bd3af37e69c10494871f6d0dae72d9a82bffcb4fb3bfe', '2001:db8::4', 1799999930),
    (x'0808080808080808', x'57ec218402e0a2f0e644efc85dc02cc7ff60c4b6b3e937e4afc3116e41aa33ac', '192.0.2.6', 1799999950),
    (x'0707070707070707', x'3f7a4ad7b41de86f3a587367047b320e00e3558dbbeba66f5a9ad7d8591ffd94', '192.0.2.7', 1799999960),
    (x'0707070707070707', x'b706a40f84e9e3f85162ad8778c260b8b402b41539ed531181744a481812495d', '192.0.2.8', 1799999970);
PRAGMA user_version = 1;
PRAGMA application_id = 1952673906;
