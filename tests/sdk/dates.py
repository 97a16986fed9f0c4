"""What needs another day, through an official client whose clock moves with the daemon's:
`dates.py CLIENT`."""

import base64
import os
import sys

from checks import Cases
from cryptography.hazmat.primitives import hashes, serialization
from kms_more import OAEP, b64

DAY = 24 * 3600


def advance(seconds):
    """Moves the clock of the daemon, and ours."""
    path = os.environ["FAKETIME_TIMESTAMP_FILE"]
    with open(path, encoding="ascii") as file:
        ahead = int(file.read())
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(f"+{ahead + seconds}\n")
    os.rename(path + ".new", path)


def a_version_a_week(t):
    made = t.call("CreateKey", KeySpec="RSA_2048", KeyUsage="SIGN/VERIFY")["KeyMetadata"]
    key = {"KeyId": made["KeyId"]}
    early = (400, "Rejected.UnsupportedOperation", "CreateKeyVersion")
    t.refused(*early, **key)
    advance(7 * DAY - 60)
    t.refused(*early, **key)
    advance(120)
    version = t.call("CreateKeyVersion", **key)["KeyVersion"]
    assert version["KeyId"] == made["KeyId"], version
    assert version["KeyVersionId"] != made["PrimaryKeyVersion"], version
    t.refused(*early, **key)
    listed = t.call("ListKeyVersions", **key)["KeyVersions"]["KeyVersion"]
    versions = [entry["KeyVersionId"] for entry in listed]
    assert versions == [made["PrimaryKeyVersion"], version["KeyVersionId"]], versions
    # Each version signs, with a key of its own.
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"what was said")
    digest = digest.finalize()
    for number in versions:
        pair = {**key, "KeyVersionId": number}
        public = t.call("GetPublicKey", **pair)["PublicKey"]
        what = {**pair, "Algorithm": "RSA_PKCS1_SHA_256", "Digest": b64(digest)}
        value = t.call("AsymmetricSign", **what)["Value"]
        assert t.call("AsymmetricVerify", **what, Value=value)["Value"] is True
        assert public not in publics(t, key, versions, but=number)


def publics(t, key, versions, but):
    return [t.call("GetPublicKey", **key, KeyVersionId=number)["PublicKey"]
            for number in versions if number != but]


def a_token_of_yesterday(t):
    key = t.call("CreateKey", Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    given = t.call("GetParametersForImport", KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256",
                   WrappingKeySpec="RSA_2048")
    public = serialization.load_der_public_key(base64.b64decode(given["PublicKey"]))
    bring = {"KeyId": key, "EncryptedKeyMaterial": b64(public.encrypt(bytes(32), OAEP)),
             "ImportToken": given["ImportToken"], "KeyMaterialExpireUnix": 0}
    advance(DAY + 1)
    t.refused(400, "ExpiredImportToken", "ImportKeyMaterial", **bring)


def a_key_that_was_given_up(t):
    key = t.call("CreateKey")["KeyMetadata"]["KeyId"]
    t.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    advance(7 * DAY - 60)
    assert t.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    advance(120)
    t.refused(404, "Forbidden.KeyNotFound", "DescribeKey", KeyId=key)


def main():
    t = Cases("kms", sys.argv[1])
    for case in (a_version_a_week, a_token_of_yesterday, a_key_that_was_given_up):
        t.run(case)
    t.conclude(["CreateKeyVersion"], {
        ("CreateKeyVersion", "Rejected.UnsupportedOperation"),
        ("ImportKeyMaterial", "ExpiredImportToken"),
    })


if __name__ == "__main__":
    main()
