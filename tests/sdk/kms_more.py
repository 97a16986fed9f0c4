"""KMS 2016-01-20, the other half: tags, policies, rotation, imports, exports, key pairs."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

NOWHERE = "00000000-0000-4000-8000-000000000000"
PLAINTEXT = base64.b64encode(b"attack at dawn").decode()
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
REGION = "cn-hangzhou"

ACTIONS = """
UpdateRotationPolicy SetDeletionProtection ReEncrypt GenerateAndExportDataKey
ExportDataKey GetParametersForImport ImportKeyMaterial DeleteKeyMaterial TagResource UntagResource
ListResourceTags TagResources UntagResources ListTagResources GetKeyPolicy SetKeyPolicy
DescribeRegions DescribeAccountKmsStatus OpenKmsService ListKmsInstances AsymmetricSign
AsymmetricVerify AsymmetricEncrypt AsymmetricDecrypt GetPublicKey
""".split()


def b64(data):
    return base64.b64encode(data).decode()


def new_key(t, **parameters):
    return t.call("CreateKey", **parameters)["KeyMetadata"]


def key_id(t, **parameters):
    return new_key(t, **parameters)["KeyId"]


def regions(t):
    listed = t.call("DescribeRegions")["Regions"]["Region"]
    assert {"RegionId": REGION} in listed, listed


def account(t):
    assert t.call("DescribeAccountKmsStatus")["AccountStatus"] == "Enabled"
    t.call("OpenKmsService")
    (instance,) = t.call("ListKmsInstances", PageNumber=1, PageSize=20)["KmsInstances"]["KmsInstance"]
    assert instance["KmsInstanceId"].startswith("kst-"), instance


def tags(t):
    key = key_id(t)
    pairs = [{"TagKey": "team", "TagValue": "a/b"}, {"TagKey": "cost", "TagValue": "1"}]
    t.call("TagResource", KeyId=key, Tags=json.dumps(pairs))
    listed = t.call("ListResourceTags", KeyId=key)["Tags"]["Tag"]
    assert {(tag["TagKey"], tag["TagValue"]) for tag in listed} == {("team", "a/b"), ("cost", "1")}
    t.call("UntagResource", KeyId=key, TagKeys=json.dumps(["cost"]))
    listed = t.call("ListResourceTags", KeyId=key)["Tags"]["Tag"]
    assert [tag["TagKey"] for tag in listed] == ["team"], listed
    t.refused(400, "InvalidParameter", "TagResource", KeyId=key, Tags="[{")
    reserved = json.dumps([{"TagKey": "acs:other", "TagValue": "x"}])
    t.refused(400, "InvalidParameter", "TagResource", KeyId=key, Tags=reserved)
    t.refused(404, "Forbidden.KeyNotFound", "ListResourceTags", KeyId=NOWHERE)


def tags_of_many(t):
    keys = [key_id(t) for _ in range(2)]
    about = {"RegionId": REGION, "ResourceType": "key", "ResourceId": keys}
    t.call("TagResources", Tag=[{"Key": "many", "Value": "yes"}], **about)
    listed = t.call("ListTagResources", **about)["TagResources"]["TagResource"]
    assert {entry["ResourceId"] for entry in listed} == set(keys), listed
    t.call("UntagResources", TagKey=["many"], **about)
    assert t.call("ListTagResources", **about)["TagResources"]["TagResource"] == []


def key_policy(t):
    (instance,) = t.call("ListKmsInstances")["KmsInstances"]["KmsInstance"]
    key = key_id(t, DKMSInstanceId=instance["KmsInstanceId"])
    policy = json.loads(t.call("GetKeyPolicy", KeyId=key, PolicyName="default")["Policy"])
    assert policy["Version"] == "1", policy
    t.call("SetKeyPolicy", KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    t.refused(400, "InvalidParameter", "SetKeyPolicy", KeyId=key, PolicyName="default", Policy="{")
    t.refused(404, "Forbidden.DKMSInstanceNotFound", "CreateKey", DKMSInstanceId="kst-nowhere")


def rotation(t):
    key = key_id(t, EnableAutomaticRotation=True, RotationInterval="604800s")
    told = t.call("DescribeKey", KeyId=key)["KeyMetadata"]
    assert told["AutomaticRotation"] == "Enabled" and told["RotationInterval"] == "604800s", told
    t.call("UpdateRotationPolicy", KeyId=key, EnableAutomaticRotation=False)
    told = t.call("DescribeKey", KeyId=key)["KeyMetadata"]
    assert told["AutomaticRotation"] == "Disabled", told
    t.refused(400, "InvalidParameter", "UpdateRotationPolicy", KeyId=key,
              EnableAutomaticRotation=True, RotationInterval="6d")
    own = key_id(t, Origin="EXTERNAL")
    t.refused(409, "Rejected.PendingImport", "UpdateRotationPolicy", KeyId=own,
              EnableAutomaticRotation=True, RotationInterval="30d")
    unsupported = "Rejected.UnsupportedOperation"
    t.refused(400, unsupported, "CreateKeyVersion", KeyId=key)


def deletion_protection(t):
    key = new_key(t)
    t.call("SetDeletionProtection", ProtectedResourceArn=key["Arn"], EnableDeletionProtection=True)
    t.refused(400, "Rejected.UnsupportedOperation", "ScheduleKeyDeletion", KeyId=key["KeyId"],
              PendingWindowInDays=7)
    t.call("SetDeletionProtection", ProtectedResourceArn=key["Arn"], EnableDeletionProtection=False)
    t.call("ScheduleKeyDeletion", KeyId=key["KeyId"], PendingWindowInDays=7)


def own_material(t):
    key = key_id(t, Origin="EXTERNAL")
    assert t.call("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"] == "PendingImport"
    t.refused(409, "Rejected.PendingImport", "Encrypt", KeyId=key, Plaintext=PLAINTEXT)
    how = {"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    given = t.call("GetParametersForImport", **how)
    public = serialization.load_der_public_key(base64.b64decode(given["PublicKey"]))
    material = hashlib.sha256(t.kind.encode()).digest()

    def bring(material, **changed):
        parameters = {
            "KeyId": key, "EncryptedKeyMaterial": b64(public.encrypt(material, OAEP)),
            "ImportToken": given["ImportToken"], "KeyMaterialExpireUnix": 0, **changed,
        }
        return "ImportKeyMaterial", parameters

    def refused(code, wanted):
        action, parameters = wanted
        t.refused(400, code, action, **parameters)

    refused("InvalidKeyMaterial", bring(material[:31]))
    refused("InvalidImportToken", bring(material, ImportToken=b64(b"no token of ours")))
    refused("InvalidParameter", bring(material, KeyMaterialExpireUnix=1))
    action, parameters = bring(material)
    t.call(action, **parameters)
    blob = t.call("Encrypt", KeyId=key, Plaintext=PLAINTEXT)["CiphertextBlob"]
    t.call("DeleteKeyMaterial", KeyId=key)
    t.refused(409, "Rejected.PendingImport", "Decrypt", CiphertextBlob=blob)
    refused("InvalidKeyMaterial", bring(bytes(32)))
    t.call(action, **parameters)
    assert t.call("Decrypt", CiphertextBlob=blob)["Plaintext"] == PLAINTEXT
    t.refused(400, "Unsupported.Origin", "GetParametersForImport", **{**how, "KeyId": key_id(t)})


def exports(t):
    key, private = key_id(t), rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    to = {"PublicKeyBlob": b64(public), "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
          "WrappingKeySpec": "RSA_2048"}
    made = t.call("GenerateAndExportDataKey", KeyId=key, NumberOfBytes=24, **to)
    plain = private.decrypt(base64.b64decode(made["ExportedDataKey"]), OAEP)
    opened = t.call("Decrypt", CiphertextBlob=made["CiphertextBlob"])["Plaintext"]
    assert base64.b64decode(opened) == plain and len(plain) == 24
    again = t.call("ExportDataKey", CiphertextBlob=made["CiphertextBlob"], **to)
    assert private.decrypt(base64.b64decode(again["ExportedDataKey"]), OAEP) == plain
    wrong = {**to, "WrappingAlgorithm": "ROT13"}
    t.refused(400, "InvalidParameter", "GenerateAndExportDataKey", KeyId=key, **wrong)
    t.refused(400, "InvalidParameter", "ExportDataKey", **{
        **to, "CiphertextBlob": made["CiphertextBlob"], "PublicKeyBlob": b64(b"none")})


def re_encrypt(t):
    one, two = key_id(t), key_id(t)
    blob = t.call("Encrypt", KeyId=one, Plaintext=PLAINTEXT, EncryptionContext={"a": "1"})
    moved = t.call(
        "ReEncrypt", CiphertextBlob=blob["CiphertextBlob"], DestinationKeyId=two,
        SourceEncryptionContext={"a": "1"}, DestinationEncryptionContext={"b": "2"})
    opened = t.call("Decrypt", CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"})
    assert opened["Plaintext"] == PLAINTEXT and opened["KeyId"] == two, opened
    t.refused(400, "InvalidParameter", "ReEncrypt", CiphertextBlob=blob["CiphertextBlob"],
              DestinationKeyId=two)
    t.refused(404, "Forbidden.KeyNotFound", "ReEncrypt", CiphertextBlob=blob["CiphertextBlob"],
              DestinationKeyId=NOWHERE, SourceEncryptionContext={"a": "1"})


def pair_of(t, spec, usage):
    made = new_key(t, KeySpec=spec, KeyUsage=usage)
    versions = t.call("ListKeyVersions", KeyId=made["KeyId"])["KeyVersions"]["KeyVersion"]
    pair = {"KeyId": made["KeyId"], "KeyVersionId": versions[0]["KeyVersionId"]}
    text = t.call("GetPublicKey", **pair)["PublicKey"]
    return pair, serialization.load_pem_public_key(text.encode())


def signatures(t):
    digest = hashlib.sha256(b"what was said").digest()
    sha = utils.Prehashed(hashes.SHA256())
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    for spec, algorithm, verify in (
        ("RSA_2048", "RSA_PSS_SHA_256", lambda k, v: k.verify(v, digest, pss, sha)),
        ("RSA_2048", "RSA_PKCS1_SHA_256",
         lambda k, v: k.verify(v, digest, padding.PKCS1v15(), sha)),
        ("EC_P256", "ECDSA_SHA_256", lambda k, v: k.verify(v, digest, ec.ECDSA(sha))),
    ):
        pair, public = pair_of(t, spec, "SIGN/VERIFY")
        what = {**pair, "Algorithm": algorithm, "Digest": b64(digest)}
        value = t.call("AsymmetricSign", **what)["Value"]
        verify(public, base64.b64decode(value))
        assert t.call("AsymmetricVerify", **what, Value=value)["Value"] is True
        other = {**what, "Digest": b64(hashlib.sha256(b"not that").digest())}
        assert t.call("AsymmetricVerify", **other, Value=value)["Value"] is False
        t.refused(400, "InvalidParameter", "AsymmetricSign", **{**what, "Digest": b64(b"short")})
        t.refused(400, "InvalidParameter", "AsymmetricSign", **{**what, "Algorithm": "NONE"})


def encryption_with_pairs(t):
    pair, public = pair_of(t, "RSA_2048", "ENCRYPT/DECRYPT")
    how = {**pair, "Algorithm": "RSAES_OAEP_SHA_256"}
    sealed = t.call("AsymmetricEncrypt", Plaintext=PLAINTEXT, **how)["CiphertextBlob"]
    ours = b64(public.encrypt(b"attack at dawn", OAEP))
    for blob in (sealed, ours):
        assert t.call("AsymmetricDecrypt", CiphertextBlob=blob, **how)["Plaintext"] == PLAINTEXT
    t.refused(400, "InvalidParameter", "AsymmetricDecrypt", CiphertextBlob=b64(bytes(256)), **how)
    missing = {**how, "KeyVersionId": NOWHERE}
    t.refused(404, "Forbidden.KeyVersionNotFound", "AsymmetricEncrypt", Plaintext=PLAINTEXT,
              **missing)


def key_versions_of_pairs(t):
    pair, _ = pair_of(t, "EC_P256", "SIGN/VERIFY")
    # A week must pass between two versions: the refusal is the published one.
    t.refused(400, "Rejected.UnsupportedOperation", "CreateKeyVersion", KeyId=pair["KeyId"])


CASES = [
    regions, account, tags, tags_of_many, key_policy, rotation, deletion_protection, own_material, exports,
    re_encrypt, signatures, encryption_with_pairs, key_versions_of_pairs,
]
