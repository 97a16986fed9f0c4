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
    primary_version TEXT NOT NULL
) STRICT;

CREATE TABLE key_version (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id       TEXT NOT NULL UNIQUE,
    key_id           TEXT NOT NULL REFERENCES kms_key (key_id) ON DELETE CASCADE,
    created          INTEGER NOT NULL,
    wrapped_material BLOB NOT NULL
) STRICT;
CREATE INDEX key_version_by_key ON key_version (key_id);

CREATE TABLE alias (
    name            TEXT PRIMARY KEY,
    key_id          TEXT NOT NULL REFERENCES kms_key (key_id) ON DELETE CASCADE,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_by_key ON alias (key_id);

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
    epoch           INTEGER NOT NULL
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
