"""KMS 2016-01-20 through an official client: `kms.py CLIENT`."""

import base64
import sys

import kms_more
from checks import Cases

NOWHERE = "00000000-0000-4000-8000-000000000000"
PLAINTEXT = base64.b64encode(b"attack at dawn").decode()

ACTIONS = """
CreateKey DescribeKey ListKeys EnableKey DisableKey ScheduleKeyDeletion CancelKeyDeletion
UpdateKeyDescription CreateAlias UpdateAlias DeleteAlias ListAliases ListAliasesByKeyId
ListKeyVersions DescribeKeyVersion Encrypt Decrypt GenerateDataKey GenerateDataKeyWithoutPlaintext
""".split()


def new_key(t, **parameters):
    return t.call("CreateKey", **parameters)["KeyMetadata"]["KeyId"]


def create_key(t):
    made = t.call("CreateKey", Description="for the test", KeySpec="Aliyun_AES_256")["KeyMetadata"]
    assert made["KeyState"] == "Enabled" and made["Description"] == "for the test", made
    assert made["KeyUsage"] == "ENCRYPT/DECRYPT" and made["Origin"] == "Aliyun_KMS", made
    assert made["Arn"].endswith(f":key/{made['KeyId']}"), made
    t.refused(400, "InvalidParameter", "CreateKey", KeySpec="Aliyun_AES_512")
    t.refused(400, "InvalidParameter", "CreateKey", KeyUsage="DANCE")
    t.refused(400, "InvalidParameter", "CreateKey", Origin="Elsewhere")
    t.refused(400, "InvalidParameter", "CreateKey", ProtectionLevel="PAPER")
    t.refused(400, "InvalidParameter", "CreateKey", Description="x" * 8193)


def describe_key(t):
    key = new_key(t)
    told = t.call("DescribeKey", KeyId=key)["KeyMetadata"]
    assert told["KeyId"] == key and told["Creator"], told
    # The old typed client does not know the field.
    assert told.get("DeletionProtection", "Disabled") == "Disabled", told
    assert told["DeleteDate"] == "" and told["PrimaryKeyVersion"], told
    t.refused(404, "Forbidden.KeyNotFound", "DescribeKey", KeyId=NOWHERE)
    t.refused(404, "Forbidden.AliasNotFound", "DescribeKey", KeyId="alias/nowhere")
    t.refused(400, "MissingParameter", "DescribeKey")


def list_keys(t):
    keys = {new_key(t) for _ in range(3)}
    seen, page = set(), 1
    while True:
        answer = t.call("ListKeys", PageNumber=page, PageSize=2)
        entries = answer["Keys"]["Key"]
        assert answer["PageNumber"] == page and answer["PageSize"] == 2, answer
        seen |= {entry["KeyId"] for entry in entries}
        if page * 2 >= answer["TotalCount"]:
            break
        page += 1
    assert keys <= seen, (keys, seen)
    t.refused(400, "InvalidParameter", "ListKeys", PageSize=101)
    t.refused(400, "InvalidParameter", "ListKeys", PageNumber=0)


def enable_and_disable_key(t):
    key = new_key(t)
    for _ in range(2):
        t.call("DisableKey", KeyId=key)
        assert t.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    t.refused(409, "Rejected.Disabled", "Encrypt", KeyId=key, Plaintext=PLAINTEXT)
    t.refused(409, "Rejected.Disabled", "GenerateDataKey", KeyId=key)
    for _ in range(2):
        t.call("EnableKey", KeyId=key)
        assert t.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    for action in ("EnableKey", "DisableKey"):
        t.refused(404, "Forbidden.KeyNotFound", action, KeyId=NOWHERE)
        t.refused(400, "MissingParameter", action)


def delete_key_and_back(t):
    key = new_key(t)
    blob = t.call("Encrypt", KeyId=key, Plaintext=PLAINTEXT)["CiphertextBlob"]
    t.refused(409, "Rejected.StateModifiedFailed", "CancelKeyDeletion", KeyId=key)
    t.refused(400, "InvalidParameter", "ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=6)
    t.refused(400, "InvalidParameter", "ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=367)
    t.refused(400, "MissingParameter", "ScheduleKeyDeletion", KeyId=key)
    t.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    told = t.call("DescribeKey", KeyId=key)["KeyMetadata"]
    assert told["KeyState"] == "PendingDeletion" and told["DeleteDate"], told
    pending = "Rejected.PendingDeletion"
    t.refused(409, pending, "Decrypt", CiphertextBlob=blob)
    t.refused(409, pending, "UpdateKeyDescription", KeyId=key, Description="x")
    state = "Rejected.StateModifiedFailed"
    for action in ("EnableKey", "DisableKey"):
        t.refused(409, state, action, KeyId=key)
    t.refused(409, state, "ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    t.refused(409, state, "CreateAlias", KeyId=key, AliasName="alias/late")
    t.call("CancelKeyDeletion", KeyId=key)
    assert t.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    assert t.call("Decrypt", CiphertextBlob=blob)["Plaintext"] == PLAINTEXT
    t.refused(404, "Forbidden.KeyNotFound", "CancelKeyDeletion", KeyId=NOWHERE)


def update_key_description(t):
    key = new_key(t)
    t.call("UpdateKeyDescription", KeyId=key, Description="Übersicht & more = 100%")
    told = t.call("DescribeKey", KeyId=key)["KeyMetadata"]["Description"]
    assert told == "Übersicht & more = 100%", told
    t.refused(404, "Forbidden.KeyNotFound", "UpdateKeyDescription", KeyId=NOWHERE, Description="x")


def aliases(t):
    one, two, name = new_key(t), new_key(t), f"alias/{t.kind}"
    t.call("CreateAlias", KeyId=one, AliasName=name)
    t.refused(400, "AliasAlreadyExists", "CreateAlias", KeyId=one, AliasName=name)
    t.refused(400, "InvalidParameter", "CreateAlias", KeyId=one, AliasName="no-prefix")
    t.refused(404, "Forbidden.KeyNotFound", "CreateAlias", KeyId=NOWHERE, AliasName="alias/a")
    listed = t.call("ListAliasesByKeyId", KeyId=one)["Aliases"]["Alias"]
    assert [entry["AliasName"] for entry in listed] == [name], listed
    t.call("UpdateAlias", KeyId=two, AliasName=name)
    assert t.call("DescribeKey", KeyId=name)["KeyMetadata"]["KeyId"] == two
    listed = t.call("ListAliases", PageSize=100)["Aliases"]["Alias"]
    assert any(entry["AliasName"] == name and entry["KeyId"] == two for entry in listed), listed
    sealed = t.call("Encrypt", KeyId=name, Plaintext=PLAINTEXT)
    assert sealed["KeyId"] == two, sealed
    t.call("DeleteAlias", AliasName=name)
    t.refused(404, "Forbidden.AliasNotFound", "DeleteAlias", AliasName=name)
    t.refused(404, "Forbidden.AliasNotFound", "UpdateAlias", KeyId=one, AliasName=name)
    t.refused(404, "Forbidden.KeyNotFound", "ListAliasesByKeyId", KeyId=NOWHERE)


def key_versions(t):
    key = new_key(t)
    listed = t.call("ListKeyVersions", KeyId=key)["KeyVersions"]["KeyVersion"]
    assert len(listed) == 1, listed
    version = listed[0]["KeyVersionId"]
    told = t.call("DescribeKeyVersion", KeyId=key, KeyVersionId=version)["KeyVersion"]
    assert told["KeyVersionId"] == version and told["KeyId"] == key, told
    not_found = "Forbidden.KeyVersionNotFound"
    t.refused(404, not_found, "DescribeKeyVersion", KeyId=key, KeyVersionId=NOWHERE)
    t.refused(404, "Forbidden.KeyNotFound", "ListKeyVersions", KeyId=NOWHERE)


def encrypt_and_decrypt(t):
    key = new_key(t)
    context = {"disk": "d-1", "zone": "a b&c=d"}
    sealed = t.call("Encrypt", KeyId=key, Plaintext=PLAINTEXT, EncryptionContext=context)
    blob = sealed["CiphertextBlob"]
    assert base64.b64decode(blob)[:36].decode() == sealed["KeyVersionId"], sealed
    turned = dict(reversed(context.items()))
    opened = t.call("Decrypt", CiphertextBlob=blob, EncryptionContext=turned)
    assert opened["Plaintext"] == PLAINTEXT and opened["KeyId"] == key, opened
    wrong = "InvalidParameter"
    t.refused(400, wrong, "Decrypt", CiphertextBlob=blob)
    t.refused(400, wrong, "Decrypt", CiphertextBlob=blob, EncryptionContext={"disk": "d-2"})
    changed = base64.b64decode(blob)[:-1] + bytes([base64.b64decode(blob)[-1] ^ 1])
    changed = base64.b64encode(changed).decode()
    t.refused(400, wrong, "Decrypt", CiphertextBlob=changed, EncryptionContext=context)
    foreign = base64.b64encode(NOWHERE.encode() + base64.b64decode(blob)[36:]).decode()
    t.refused(404, "Forbidden.KeyNotFound", "Decrypt", CiphertextBlob=foreign)
    t.refused(400, wrong, "Decrypt", CiphertextBlob="no base64!")
    t.refused(400, "MissingParameter", "Decrypt")
    t.refused(400, wrong, "Encrypt", KeyId=key, Plaintext="no base64!")
    long = base64.b64encode(bytes(6145)).decode()
    t.refused(400, wrong, "Encrypt", KeyId=key, Plaintext=long)
    t.refused(400, "MissingParameter", "Encrypt", KeyId=key)
    t.refused(404, "Forbidden.KeyNotFound", "Encrypt", KeyId=NOWHERE, Plaintext=PLAINTEXT)


def data_keys(t):
    key = new_key(t)
    for parameters, length in (
        ({}, 32),
        ({"KeySpec": "AES_128"}, 16),
        ({"NumberOfBytes": 1024}, 1024),
        ({"KeySpec": "AES_256", "NumberOfBytes": 64, "EncryptionContext": {"a": "1"}}, 64),
    ):
        made = t.call("GenerateDataKey", KeyId=key, **parameters)
        assert len(base64.b64decode(made["Plaintext"])) == length, parameters
        context = {k: v for k, v in parameters.items() if k == "EncryptionContext"}
        opened = t.call("Decrypt", CiphertextBlob=made["CiphertextBlob"], **context)
        assert opened["Plaintext"] == made["Plaintext"], parameters
        bare = t.call("GenerateDataKeyWithoutPlaintext", KeyId=key, **parameters)
        assert not bare.get("Plaintext"), "a data key that was not asked for"
        opened = t.call("Decrypt", CiphertextBlob=bare["CiphertextBlob"], **context)
        assert len(base64.b64decode(opened["Plaintext"])) == length, parameters
    for action in ("GenerateDataKey", "GenerateDataKeyWithoutPlaintext"):
        t.refused(400, "InvalidParameter", action, KeyId=key, KeySpec="AES_512")
        t.refused(400, "InvalidParameter", action, KeyId=key, NumberOfBytes=1025)
        t.refused(404, "Forbidden.KeyNotFound", action, KeyId=NOWHERE)
        t.refused(400, "MissingParameter", action)


CASES = [
    create_key, describe_key, list_keys, enable_and_disable_key, delete_key_and_back,
    update_key_description, aliases, key_versions, encrypt_and_decrypt, data_keys,
]


def main():
    t = Cases("kms", sys.argv[1])
    for case in CASES + kms_more.CASES:
        t.run(case)
    t.conclude(ACTIONS + kms_more.ACTIONS)


if __name__ == "__main__":
    main()
