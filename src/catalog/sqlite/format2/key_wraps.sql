-- Since format 2. Uses of a key version to encrypt that are spoken for.
CREATE TABLE key_wraps (
    version_id      TEXT PRIMARY KEY REFERENCES key_version (version_id) ON DELETE CASCADE,
    reserved        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
