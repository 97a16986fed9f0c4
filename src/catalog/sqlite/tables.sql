-- Format 1 of the catalog. Times are milliseconds since 1970 in UTC. `number` is the order of birth.
CREATE TABLE root (
    only            INTEGER PRIMARY KEY CHECK (only = 1),
    provider        TEXT NOT NULL,
    parameters      TEXT NOT NULL,
    root_key_id     TEXT NOT NULL,
    sealed_key      BLOB NOT NULL,
    previous_id     TEXT,
    since           INTEGER NOT NULL
) STRICT;

CREATE TABLE kms_key (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id          TEXT NOT NULL UNIQUE,
    description     TEXT NOT NULL,
    spec            TEXT NOT NULL,
    origin          TEXT NOT NULL,
    protection      TEXT NOT NULL,
    creator         TEXT NOT NULL,
    state           TEXT NOT NULL,
    created         INTEGER NOT NULL,
    deletes         INTEGER,
    primary_version TEXT NOT NULL,
    usage           TEXT NOT NULL,
    instance        TEXT,
    rotation        INTEGER,
    rotated         INTEGER NOT NULL,
    protected       INTEGER NOT NULL,
    protected_why   TEXT NOT NULL,
    has_material    INTEGER NOT NULL,
    expires         INTEGER
) STRICT;

CREATE TABLE key_policy (
    key_id          TEXT PRIMARY KEY REFERENCES kms_key (key_id) ON DELETE CASCADE,
    policy          TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE key_version (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id       TEXT NOT NULL UNIQUE,
    key_id           TEXT NOT NULL REFERENCES kms_key (key_id) ON DELETE CASCADE,
    created          INTEGER NOT NULL,
    store            TEXT NOT NULL,
    wrapped_material BLOB NOT NULL,
    public_key       BLOB
) STRICT;
CREATE INDEX key_version_by_key ON key_version (key_id);

CREATE TABLE alias (
    name            TEXT PRIMARY KEY,
    key_id          TEXT NOT NULL REFERENCES kms_key (key_id) ON DELETE CASCADE,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_by_key ON alias (key_id);

CREATE TABLE tag (
    resource_type   TEXT NOT NULL,
    resource_id     TEXT NOT NULL,
    key             TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (resource_type, resource_id, key)
) STRICT, WITHOUT ROWID;

-- A disk outlives its KMS key (and is unreadable then), so it does not reference it.
CREATE TABLE disk (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    disk_id         TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    description     TEXT NOT NULL,
    size            INTEGER NOT NULL,
    encrypted       INTEGER NOT NULL,
    kms_key_id      TEXT,
    status          TEXT NOT NULL,
    category        TEXT NOT NULL,
    created         INTEGER NOT NULL,
    attached        INTEGER,
    detached        INTEGER,
    instance_id     TEXT,
    read_only       INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    cache           TEXT NOT NULL,
    iops_limit      INTEGER,
    bytes_limit     INTEGER
) STRICT;
CREATE INDEX disk_by_key ON disk (kms_key_id);

CREATE TABLE layer (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    layer_id        TEXT NOT NULL UNIQUE,
    disk_id         TEXT NOT NULL REFERENCES disk (disk_id) ON DELETE CASCADE,
    parent          TEXT,
    file_name       TEXT NOT NULL
) STRICT;
CREATE INDEX layer_by_disk ON layer (disk_id);

-- RAM: who may do what.
CREATE TABLE ram_user (
    user_id         TEXT PRIMARY KEY,
    user_name       TEXT NOT NULL UNIQUE,
    display_name    TEXT NOT NULL,
    comments        TEXT NOT NULL,
    email           TEXT NOT NULL,
    mobile_phone    TEXT NOT NULL,
    created         INTEGER NOT NULL,
    updated         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An access key without a user is the account owner's.
CREATE TABLE access_key (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    access_key_id   TEXT NOT NULL UNIQUE,
    user_id         TEXT REFERENCES ram_user (user_id),
    wrapped_secret  BLOB NOT NULL,
    is_active       INTEGER NOT NULL,
    created         INTEGER NOT NULL
) STRICT;
CREATE INDEX access_key_by_user ON access_key (user_id);

CREATE TABLE ram_role (
    role_id             TEXT PRIMARY KEY,
    role_name           TEXT NOT NULL UNIQUE,
    description         TEXT NOT NULL,
    trust_policy        TEXT NOT NULL,
    session_seconds_max INTEGER NOT NULL,
    created             INTEGER NOT NULL,
    updated             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE ram_policy (
    policy_name     TEXT PRIMARY KEY,
    description     TEXT NOT NULL,
    document        TEXT NOT NULL,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- System policies are part of the program, hence `system_name` beside `custom_name`.
CREATE TABLE policy_attachment (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id         TEXT REFERENCES ram_user (user_id),
    role_id         TEXT REFERENCES ram_role (role_id),
    system_name     TEXT,
    custom_name     TEXT REFERENCES ram_policy (policy_name),
    attached        INTEGER NOT NULL,
    CHECK ((user_id IS NULL) <> (role_id IS NULL)),
    CHECK ((system_name IS NULL) <> (custom_name IS NULL))
) STRICT;
CREATE UNIQUE INDEX policy_attachment_once ON policy_attachment
    (coalesce(user_id, ''), coalesce(role_id, ''), coalesce(system_name, ''), coalesce(custom_name, ''));
CREATE INDEX policy_attachment_by_policy ON policy_attachment (custom_name);
