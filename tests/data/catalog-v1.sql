PRAGMA foreign_keys = OFF;
PRAGMA application_id = 1397507147;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE access_key (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    access_key_id   TEXT NOT NULL UNIQUE,
    user_id         TEXT REFERENCES ram_user (user_id),
    wrapped_secret  BLOB NOT NULL,
    is_active       INTEGER NOT NULL,
    created         INTEGER NOT NULL
) STRICT;
INSERT INTO "access_key" VALUES(1,'LTAI5tU0u0oMpvz26OEmWE9r',NULL,X'01FB09410FAAC8D14A96DEBBF443A8128DA394F57993D34E90C0E5E9971D73362723A71C57537F3D64EC60C0F7B7CA5BCEA06A51518A62DECD462B',1,1795557053346);
CREATE TABLE alias (
    name            TEXT PRIMARY KEY,
    key_id          TEXT NOT NULL REFERENCES kms_key (key_id) ON DELETE CASCADE,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "alias" VALUES('alias/acs/ecs','edbc81e6-d1e9-4305-b95d-2782dfd216af',1795557055325);
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
INSERT INTO "disk" VALUES(1,'d-g6qedrk7hm4su2upsr39','db','',1048576,1,'edbc81e6-d1e9-4305-b95d-2782dfd216af','In_use','cloud_essd',1795557055332,1795557055348,NULL,'i-local',0,1,'writeback',NULL,NULL);
INSERT INTO "disk" VALUES(2,'d-ksnjgsaj3528s6kipfrn','plain','',2097152,0,NULL,'Available','cloud_essd',1795557055357,NULL,NULL,NULL,0,0,'writeback',NULL,NULL);
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
INSERT INTO "key_version" VALUES(1,'9b7ad7df-ad18-4211-92aa-1eda30ce641f','94bb7e89-ee0d-46f7-906d-95592ac07fd0',1795557055313,'software',X'017D3602B00BAA8190F8C6B474396DCC5CCAB851BF617A4D4CE6789848FD6F4DCAE5C49664C1499174B881D178422729FA4F0A1DC03B3023A89B9BDD27',NULL);
INSERT INTO "key_version" VALUES(2,'aa24bd09-069a-4682-aea1-e49a03d8b4f3','edbc81e6-d1e9-4305-b95d-2782dfd216af',1795557055325,'software',X'0150CCEE111E3957F512546A838BEFB7035C3CE6C02C9BFAECAC4A4BB4DE73CFE67CAF90D024F7B2E2B239FA26262014CFC39815812DC586D6D6939F96',NULL);
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
INSERT INTO "kms_key" VALUES(1,'94bb7e89-ee0d-46f7-906d-95592ac07fd0','','Aliyun_AES_256','Aliyun_KMS','SOFTWARE','1000000000000001','Enabled',1795557055313,NULL,'9b7ad7df-ad18-4211-92aa-1eda30ce641f','ENCRYPT/DECRYPT',NULL,NULL,1795557055313,0,'',1,NULL);
INSERT INTO "kms_key" VALUES(2,'edbc81e6-d1e9-4305-b95d-2782dfd216af','Default key that protects disks of ECS when no other key is defined','Aliyun_AES_256','Aliyun_KMS','SOFTWARE','Ecs','Enabled',1795557055325,NULL,'aa24bd09-069a-4682-aea1-e49a03d8b4f3','ENCRYPT/DECRYPT',NULL,NULL,1795557055325,0,'',1,NULL);
CREATE TABLE layer (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    layer_id        TEXT NOT NULL UNIQUE,
    disk_id         TEXT NOT NULL REFERENCES disk (disk_id) ON DELETE CASCADE,
    parent          TEXT,
    file_name       TEXT NOT NULL
) STRICT;
INSERT INTO "layer" VALUES(1,'b667a939-02a6-4e26-8a2e-5c865efcc410','d-g6qedrk7hm4su2upsr39',NULL,'b667a939-02a6-4e26-8a2e-5c865efcc410.luks');
INSERT INTO "layer" VALUES(2,'3d130772-72df-48c7-9563-24fbf2bfcfb8','d-ksnjgsaj3528s6kipfrn',NULL,'3d130772-72df-48c7-9563-24fbf2bfcfb8.luks');
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
INSERT INTO "policy_attachment" VALUES(1,NULL,'304295888367061979','AliyunECSDiskEncryptRolePolicy',NULL,1795557053346);
CREATE TABLE ram_policy (
    policy_name     TEXT PRIMARY KEY,
    description     TEXT NOT NULL,
    document        TEXT NOT NULL,
    created         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ram_role (
    role_id             TEXT PRIMARY KEY,
    role_name           TEXT NOT NULL UNIQUE,
    description         TEXT NOT NULL,
    trust_policy        TEXT NOT NULL,
    session_seconds_max INTEGER NOT NULL,
    created             INTEGER NOT NULL,
    updated             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "ram_role" VALUES('304295888367061979','AliyunECSDiskEncryptDefaultRole','ECS will use this role to access your resources in other services.','{"Version":"1","Statement":[{"Action":"sts:AssumeRole","Effect":"Allow","Principal":{"Service":["ecs.aliyuncs.com"]}}]}',3600,1795557053346,1795557053346);
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
CREATE TABLE root (
    only            INTEGER PRIMARY KEY CHECK (only = 1),
    provider        TEXT NOT NULL,
    parameters      TEXT NOT NULL,
    root_key_id     TEXT NOT NULL,
    sealed_key      BLOB NOT NULL,
    previous_id     TEXT,
    since           INTEGER NOT NULL
) STRICT;
INSERT INTO "root" VALUES(1,'file','','398daf93ed89b2e20c06eff49d314bb3',X'667D2A1255460A61937E76F65452C4C8BE1F7798059F0F5278160FECE21DD8B6FA880BC896688A7F59F098F9B561EB923D56BEBE1F0BD0EE2AB33DDF',NULL,1795557053340);
CREATE TABLE tag (
    resource_type   TEXT NOT NULL,
    resource_id     TEXT NOT NULL,
    key             TEXT NOT NULL,
    value           TEXT NOT NULL,
    PRIMARY KEY (resource_type, resource_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_version_by_key ON key_version (key_id);
CREATE INDEX alias_by_key ON alias (key_id);
CREATE INDEX disk_by_key ON disk (kms_key_id);
CREATE INDEX layer_by_disk ON layer (disk_id);
CREATE INDEX access_key_by_user ON access_key (user_id);
CREATE UNIQUE INDEX policy_attachment_once ON policy_attachment
    (coalesce(user_id, ''), coalesce(role_id, ''), coalesce(system_name, ''), coalesce(custom_name, ''));
CREATE INDEX policy_attachment_by_policy ON policy_attachment (custom_name);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('policy_attachment',1);
INSERT INTO "sqlite_sequence" VALUES('access_key',1);
INSERT INTO "sqlite_sequence" VALUES('kms_key',2);
INSERT INTO "sqlite_sequence" VALUES('key_version',2);
INSERT INTO "sqlite_sequence" VALUES('disk',2);
INSERT INTO "sqlite_sequence" VALUES('layer',2);
COMMIT;
