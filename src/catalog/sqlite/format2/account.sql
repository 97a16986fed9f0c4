-- From format 1 of the catalog to format 2.

-- How the account stands with the KMS; without a row it is open.
CREATE TABLE account (
    only            INTEGER PRIMARY KEY CHECK (only = 1),
    kms_status      TEXT NOT NULL
) STRICT;
