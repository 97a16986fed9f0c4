-- Format 2: a layer belongs to nobody, so that snapshots, images and clones share it.
ALTER TABLE disk ADD COLUMN top_layer TEXT NOT NULL DEFAULT '';
ALTER TABLE disk ADD COLUMN source_snapshot TEXT;
ALTER TABLE disk ADD COLUMN source_image TEXT;
ALTER TABLE disk ADD COLUMN multi_attach INTEGER NOT NULL DEFAULT 0;
-- A JSON list: instances beside instance_id.
ALTER TABLE disk ADD COLUMN more_instances TEXT NOT NULL DEFAULT '[]';
ALTER TABLE disk ADD COLUMN lease_ends INTEGER;
CREATE INDEX disk_by_top ON disk (top_layer);

CREATE TABLE stacked_layer (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    layer_id        TEXT NOT NULL UNIQUE,
    owner           TEXT NOT NULL,
    parent          TEXT,
    file_name       TEXT NOT NULL,
    kms_key_id      TEXT,
    size            INTEGER NOT NULL,
    created         INTEGER NOT NULL,
    state           TEXT NOT NULL,
    key_bytes       INTEGER NOT NULL
) STRICT;
INSERT INTO stacked_layer
    SELECT layer.number, layer_id, disk_id, parent, file_name, kms_key_id, size, created, 'live', 0
    FROM layer JOIN disk USING (disk_id) ORDER BY layer.number;
UPDATE disk SET top_layer = coalesce(
    (SELECT layer_id FROM layer WHERE layer.disk_id = disk.disk_id ORDER BY number DESC LIMIT 1), '');
DROP TABLE layer;
ALTER TABLE stacked_layer RENAME TO layer;
CREATE INDEX layer_by_parent ON layer (parent);
CREATE INDEX layer_by_key ON layer (kms_key_id);

CREATE TABLE snapshot (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot_id     TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    description     TEXT NOT NULL,
    disk_id         TEXT NOT NULL,
    layer_id        TEXT NOT NULL,
    size            INTEGER NOT NULL,
    encrypted       INTEGER NOT NULL,
    kms_key_id      TEXT,
    status          TEXT NOT NULL,
    created         INTEGER NOT NULL,
    retention_days  INTEGER,
    expires         INTEGER,
    source_snapshot TEXT
) STRICT;
CREATE INDEX snapshot_by_disk ON snapshot (disk_id);
CREATE INDEX snapshot_by_layer ON snapshot (layer_id);
CREATE INDEX snapshot_by_expiry ON snapshot (expires);

CREATE TABLE image (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id        TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    description     TEXT NOT NULL,
    layer_id        TEXT NOT NULL,
    size            INTEGER NOT NULL,
    encrypted       INTEGER NOT NULL,
    kms_key_id      TEXT,
    status          TEXT NOT NULL,
    created         INTEGER NOT NULL,
    source          TEXT NOT NULL
) STRICT;
CREATE INDEX image_by_layer ON image (layer_id);

CREATE TABLE job (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id          TEXT NOT NULL UNIQUE,
    kind            TEXT NOT NULL,
    disk_id         TEXT,
    subject         TEXT,
    target_layer    TEXT NOT NULL,
    floor_layer     TEXT,
    state           TEXT NOT NULL,
    failure         TEXT NOT NULL,
    cursor_units    INTEGER NOT NULL,
    total_units     INTEGER NOT NULL,
    bytes_done      INTEGER NOT NULL,
    created         INTEGER NOT NULL,
    changed         INTEGER NOT NULL,
    pace            TEXT NOT NULL,
    rate            INTEGER
) STRICT;
CREATE INDEX job_by_disk ON job (disk_id);
CREATE INDEX job_by_target ON job (target_layer);
CREATE INDEX job_by_state ON job (state);
