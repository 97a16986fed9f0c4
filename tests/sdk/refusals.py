"""Each action's published refusals through an official client: `refusals.py CLIENT`.

`PUBLISHED` says which codes belong to which action: the state matrix and the error table of the
documentation, as far as a client can bring them about. Each pair must have been met at the end.
What needs another day (dates.py), another caller's signature (signing.py), an account in debt
(standing.py) or a broken disk (tests/error_codes.rs) is not in it.
"""

import base64
import json
import sys

import clients
from checks import Cases
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

NOWHERE = "00000000-0000-4000-8000-000000000000"
PLAIN = base64.b64encode(b"attack at dawn").decode()
DIGEST = base64.b64encode(bytes(32)).decode()
JUNK = base64.b64encode(b"junk").decode()
REGION = "cn-hangzhou"
TAGS = json.dumps([{"TagKey": "a", "TagValue": "b"}])
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

STATUS = {
    "Forbidden.NoPermission": 403, "AccessDeniedError": 403,
    "Forbidden.KeyNotFound": 404, "Forbidden.KeyVersionNotFound": 404,
    "Forbidden.AliasNotFound": 404, "Forbidden.ResourceNotFound": 404,
    "Forbidden.DKMSInstanceNotFound": 404,
    "Rejected.Disabled": 409, "Rejected.PendingDeletion": 409, "Rejected.PendingImport": 409,
    "Rejected.StateModifiedFailed": 409,
}
"""Where it is not 400."""

SHORT = {
    "missing": "MissingParameter", "invalid": "InvalidParameter",
    "key": "Forbidden.KeyNotFound", "version": "Forbidden.KeyVersionNotFound",
    "alias": "Forbidden.AliasNotFound", "resource": "Forbidden.ResourceNotFound",
    "instance": "Forbidden.DKMSInstanceNotFound", "permission": "Forbidden.NoPermission",
    "disabled": "Rejected.Disabled", "deletion": "Rejected.PendingDeletion",
    "import": "Rejected.PendingImport", "state": "Rejected.StateModifiedFailed",
    "no-alias": "Unsupported.Alias", "origin": "Unsupported.Origin",
    "level": "Unsupported.ProtectionLevel", "rejected": "Rejected.UnsupportedOperation",
    "unsupported": "UnsupportedOperation", "exists": "AliasAlreadyExists",
    "material": "InvalidKeyMaterial", "token": "InvalidImportToken",
    "dry": "DryRunOperationError", "dry-invalid": "ValidationError", "dry-denied": "AccessDeniedError",
}

DRY = "dry dry-invalid dry-denied"
USE = f"missing invalid key permission disabled deletion import {DRY}"
PAIR = f"missing invalid key version permission disabled deletion unsupported {DRY}"
SWITCH = "missing key permission no-alias rejected state"

PUBLISHED = {
    "CreateKey": "missing invalid origin level rejected instance unsupported permission",
    "DescribeKey": "missing key alias permission",
    "ListKeys": "invalid permission",
    "EnableKey": SWITCH,
    "DisableKey": SWITCH,
    "ScheduleKeyDeletion": f"{SWITCH} invalid",
    "CancelKeyDeletion": SWITCH,
    "SetDeletionProtection": "missing invalid key permission deletion rejected",
    "UpdateKeyDescription": "missing invalid key permission no-alias deletion rejected",
    "CreateKeyVersion": "missing key alias permission disabled deletion import rejected",
    "ListKeyVersions": "missing invalid key alias permission",
    "DescribeKeyVersion": "missing key version alias permission",
    "UpdateRotationPolicy":
        "missing invalid key no-alias permission disabled deletion import rejected",
    "Encrypt": f"{USE} alias unsupported",
    "Decrypt": USE,
    "GenerateDataKey": f"{USE} alias unsupported",
    "GenerateDataKeyWithoutPlaintext": f"{USE} alias unsupported",
    "GenerateAndExportDataKey": f"{USE} alias unsupported",
    "ExportDataKey": USE,
    "ReEncrypt": f"{USE} unsupported",
    "GetParametersForImport": "missing invalid key no-alias origin permission",
    "ImportKeyMaterial":
        "missing invalid key no-alias origin material token state permission",
    "DeleteKeyMaterial": "missing key no-alias origin permission",
    "CreateAlias": "missing invalid exists key permission rejected state",
    "UpdateAlias": "missing alias key permission deletion rejected",
    "DeleteAlias": "missing invalid alias permission rejected",
    "ListAliases": "invalid permission",
    "ListAliasesByKeyId": "missing invalid key no-alias permission",
    "TagResource": "missing invalid key resource permission deletion",
    "UntagResource": "missing invalid key resource permission deletion",
    "ListResourceTags": "missing key permission",
    "TagResources": "missing invalid key permission deletion",
    "UntagResources": "missing invalid key permission deletion",
    "ListTagResources": "missing invalid permission",
    "GetKeyPolicy": "missing invalid key permission unsupported",
    "SetKeyPolicy": "missing invalid key permission unsupported deletion",
    "DescribeAccountKmsStatus": "permission",
    "OpenKmsService": "permission",
    "ListKmsInstances": "invalid permission",
    "AsymmetricSign": PAIR,
    "AsymmetricVerify": PAIR,
    "AsymmetricEncrypt": PAIR,
    "AsymmetricDecrypt": PAIR,
    "GetPublicKey": f"missing key version permission unsupported {DRY}",
}


class World:
    """A key in each state, what they sealed, and a user who may nothing."""

    def __init__(self, t):
        self.t = t
        self.key = self.new()
        self.alias = f"alias/refused-{t.kind}"
        t.call("CreateAlias", AliasName=self.alias, KeyId=self.key)
        self.external, self.token = self.waiting()
        own = {"RSA": {"KeySpec": "RSA_2048", "KeyUsage": "SIGN/VERIFY"},
               "OAEP": {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT/DECRYPT"}}
        self.pairs = {name: self.pair(**how) for name, how in own.items()}
        self.gone = {
            state: {name: self.pair(**how) for name, how in own.items()}
            for state in ("disabled", "deletion")
        }
        self.by_state = {"disabled": self.new(), "deletion": self.new(), "import": self.external}
        sealed = lambda key: t.call("Encrypt", KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
        self.blob = sealed(self.key)
        self.blobs = {state: sealed(self.by_state[state]) for state in ("disabled", "deletion")}
        self.blobs["import"] = self.sealed_without_material(sealed)
        (instance,) = t.call("ListKmsInstances")["KmsInstances"]["KmsInstance"][:1]
        inside = {"DKMSInstanceId": instance["KmsInstanceId"]}
        self.inside, self.doomed_inside = self.new(**inside), self.new(**inside)
        for pair in self.gone["disabled"].values():
            t.call("DisableKey", KeyId=pair["KeyId"])
        t.call("DisableKey", KeyId=self.by_state["disabled"])
        doomed = [pair["KeyId"] for pair in self.gone["deletion"].values()]
        for key in (*doomed, self.by_state["deletion"], self.doomed_inside):
            t.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
        self.protected = self.new()
        arn = t.call("DescribeKey", KeyId=self.protected)["KeyMetadata"]["Arn"]
        t.call("SetDeletionProtection", ProtectedResourceArn=arn, EnableDeletionProtection=True)
        public = rsa.generate_private_key(65537, 2048).public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.recipient = {"PublicKeyBlob": base64.b64encode(public).decode(),
                          "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
        self.service = self.service_key()
        self.nobody = self.user()

    def new(self, **parameters):
        return self.t.call("CreateKey", **parameters)["KeyMetadata"]["KeyId"]

    def pair(self, **parameters):
        made = self.t.call("CreateKey", **parameters)["KeyMetadata"]
        return {"KeyId": made["KeyId"], "KeyVersionId": made["PrimaryKeyVersion"]}

    def waiting(self):
        key = self.new(Origin="EXTERNAL")
        return key, self.t.call("GetParametersForImport", **self.how_to_import(key))

    @staticmethod
    def how_to_import(key):
        return {"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
                "WrappingKeySpec": "RSA_2048"}

    @staticmethod
    def material(given, material):
        key = serialization.load_der_public_key(base64.b64decode(given["PublicKey"]))
        return {"EncryptedKeyMaterial": base64.b64encode(key.encrypt(material, OAEP)).decode(),
                "ImportToken": given["ImportToken"], "KeyMaterialExpireUnix": 0}

    def sealed_without_material(self, sealed):
        key, given = self.waiting()
        self.t.call("ImportKeyMaterial", KeyId=key, **self.material(given, bytes(range(32))))
        blob = sealed(key)
        self.t.call("DeleteKeyMaterial", KeyId=key)
        return blob

    def service_key(self):
        ecs = clients.make("v2-acs3", self.t.endpoint, self.t.key)
        made = ecs.call("ecs", "CreateDisk", {
            "RegionId": REGION, "ZoneId": REGION + "-a", "Size": 20, "Encrypted": True,
            "DiskCategory": "cloud_essd"})
        ecs.call("ecs", "DeleteDisk", {"DiskId": made["DiskId"]})
        told = self.t.call("DescribeKey", KeyId="alias/acs/ecs")["KeyMetadata"]
        return told["KeyId"]

    def user(self):
        ram = clients.make("v2-acs3", self.t.endpoint, self.t.key)
        name = f"nobody-{self.t.kind}"
        ram.call("ram", "CreateUser", {"UserName": name})
        made = ram.call("ram", "CreateAccessKey", {"UserName": name})["AccessKey"]
        other = Cases("kms", self.t.kind)
        key = clients.AccessKey(made["AccessKeyId"], made["AccessKeySecret"])
        other.client = clients.make(self.t.kind, self.t.endpoint, key)
        return other


def good(w):
    """Parameters of each action that would go."""
    key = {"KeyId": w.key}
    tags = {"RegionId": REGION, "ResourceType": "key", "ResourceId": [w.key]}
    sign = {**w.pairs["RSA"], "Algorithm": "RSA_PSS_SHA_256", "Digest": DIGEST}
    oaep = {**w.pairs["OAEP"], "Algorithm": "RSAES_OAEP_SHA_256"}
    sealed = w.t.call("AsymmetricEncrypt", Plaintext=PLAIN, **oaep)["CiphertextBlob"]
    value = w.t.call("AsymmetricSign", **sign)["Value"]
    version = w.t.call("ListKeyVersions", **key)["KeyVersions"]["KeyVersion"][0]["KeyVersionId"]
    policy = w.t.call("GetKeyPolicy", KeyId=w.inside)["Policy"]
    return {
        "CreateKey": {},
        "DescribeKey": key, "EnableKey": key, "DisableKey": key, "CreateKeyVersion": key,
        "ListKeyVersions": key, "ListAliasesByKeyId": key, "ListResourceTags": key,
        "CancelKeyDeletion": {"KeyId": w.by_state["deletion"]},
        "ScheduleKeyDeletion": {**key, "PendingWindowInDays": 7},
        "SetDeletionProtection": {**key, "EnableDeletionProtection": True},
        "UpdateKeyDescription": {**key, "Description": "d"},
        "DescribeKeyVersion": {**key, "KeyVersionId": version},
        "UpdateRotationPolicy":
            {**key, "EnableAutomaticRotation": True, "RotationInterval": "30d"},
        "ListKeys": {}, "ListAliases": {}, "ListKmsInstances": {},
        "DescribeAccountKmsStatus": {}, "OpenKmsService": {},
        "Encrypt": {**key, "Plaintext": PLAIN},
        "Decrypt": {"CiphertextBlob": w.blob},
        "GenerateDataKey": key, "GenerateDataKeyWithoutPlaintext": key,
        "GenerateAndExportDataKey": {**key, **w.recipient},
        "ExportDataKey": {"CiphertextBlob": w.blob, **w.recipient},
        "ReEncrypt": {"CiphertextBlob": w.blob, "DestinationKeyId": w.key},
        "GetParametersForImport": w.how_to_import(w.external),
        "ImportKeyMaterial": {"KeyId": w.external, **w.material(w.token, bytes(32))},
        "DeleteKeyMaterial": {"KeyId": w.external},
        "CreateAlias": {**key, "AliasName": f"alias/new-{w.t.kind}"},
        "UpdateAlias": {**key, "AliasName": w.alias},
        "DeleteAlias": {"AliasName": w.alias},
        "TagResource": {**key, "Tags": TAGS},
        "UntagResource": {**key, "TagKeys": json.dumps(["a"])},
        "TagResources": {**tags, "Tag": [{"Key": "a", "Value": "b"}]},
        "UntagResources": {**tags, "TagKey": ["a"]},
        "ListTagResources": tags,
        "GetKeyPolicy": {"KeyId": w.inside},
        "SetKeyPolicy": {"KeyId": w.inside, "PolicyName": "default", "Policy": policy},
        "AsymmetricSign": sign,
        "AsymmetricVerify": {**sign, "Value": value},
        "AsymmetricEncrypt": {**oaep, "Plaintext": PLAIN},
        "AsymmetricDecrypt": {**oaep, "CiphertextBlob": sealed},
        "GetPublicKey": w.pairs["RSA"],
    }


INVALID = {
    "CreateKey": {"KeySpec": "DES"},
    "SetDeletionProtection": {"DeletionProtectionDescription": "x" * 8193},
    "UpdateKeyDescription": {"Description": "x" * 8193},
    "ScheduleKeyDeletion": {"PendingWindowInDays": 6},
    "UpdateRotationPolicy": {"RotationInterval": "6d"},
    "Encrypt": {"Plaintext": "no base64!"},
    "Decrypt": {"CiphertextBlob": JUNK},
    "ExportDataKey": {"CiphertextBlob": JUNK},
    "ReEncrypt": {"CiphertextBlob": JUNK},
    "GetParametersForImport": {"WrappingAlgorithm": "ROT13"},
    "ImportKeyMaterial": {"KeyMaterialExpireUnix": 1},
    "CreateAlias": {"AliasName": "no-prefix"},
    "DeleteAlias": {"AliasName": "no-prefix"},
    "TagResource": {"Tags": "[{"},
    "UntagResource": {"TagKeys": "[{"},
    "TagResources": {"ResourceType": "disk"},
    "UntagResources": {"ResourceType": "disk"},
    "ListTagResources": {"ResourceType": "disk"},
    "GetKeyPolicy": {"PolicyName": "other"},
    "SetKeyPolicy": {"Policy": "{"},
    "GenerateAndExportDataKey": {"WrappingAlgorithm": "ROT13"},
}
"""What cannot be; a page of 101, 1025 bytes or the algorithm NONE where nothing is said here."""


def invalid(action):
    if action in INVALID:
        return INVALID[action]
    if action.startswith("List"):
        return {"PageSize": 101}
    if action.startswith("Generate"):
        return {"NumberOfBytes": 1025}
    return {"Algorithm": "NONE"}


def named(action, parameters, key):
    """The same, about another key."""
    if "ResourceId" in parameters:
        return {**parameters, "ResourceId": [key]}
    name = "DestinationKeyId" if action == "ReEncrypt" else "KeyId"
    return {**parameters, name: key}


def in_state(w, action, parameters, state):
    """The same, about a key in this state."""
    if action == "SetKeyPolicy":
        return {**parameters, "KeyId": w.doomed_inside}
    if action.startswith("Asymmetric"):
        usage = "RSA" if action in ("AsymmetricSign", "AsymmetricVerify") else "OAEP"
        return {**parameters, **w.gone[state][usage]}
    if action in ("Decrypt", "ExportDataKey", "ReEncrypt"):
        return {**parameters, "CiphertextBlob": w.blobs[state]}
    return named(action, parameters, w.by_state[state])


def without(parameters, action):
    """The same, less what must be there."""
    if action == "CreateKey":
        return {"EnableAutomaticRotation": True}
    if "ResourceId" in parameters:
        return {k: v for k, v in parameters.items() if k != "ResourceType"}
    first = "KeyId" if "KeyId" in parameters else next(iter(parameters))
    return {name: value for name, value in parameters.items() if name != first}


def spoiled(w, action, base, what):
    """Parameters of `action` that are refused for `what`."""
    if what == "missing":
        return without(base, action)
    if what == "invalid":
        return {**base, **invalid(action)}
    if what in ("disabled", "deletion", "import"):
        return in_state(w, action, base, what)
    if what == "key" and "CiphertextBlob" in base and "KeyId" not in base:
        foreign = NOWHERE.encode() + base64.b64decode(w.blob)[36:]
        return {**base, "CiphertextBlob": base64.b64encode(foreign).decode()}
    if what == "key":
        return named(action, base, NOWHERE)
    if what == "version":
        return {**base, "KeyVersionId": NOWHERE}
    if what == "alias" and "AliasName" in base:
        return {**base, "AliasName": "alias/nowhere"}
    if what == "alias":
        return named(action, base, "alias/nowhere")
    if what == "no-alias":
        return named(action, base, w.alias)
    if what == "resource":
        return {"SecretName": "s", **{k: v for k, v in base.items() if k != "KeyId"}}
    if what in ("permission", "dry-denied"):
        return {**base, "DryRun": True} if what == "dry-denied" else base
    if what == "dry":
        return {**base, "DryRun": True}
    if what == "dry-invalid":
        return {**without(base, action), "DryRun": True}
    return special(w, action, base, what)


def special(w, action, base, what):
    """What is refused for a reason that few actions have."""
    if action == "CreateKey":
        return {
            "origin": {"Origin": "EXTERNAL", "KeySpec": "EC_P256"},
            "level": {"ProtectionLevel": "HSM"},
            "rejected": {"KeySpec": "EC_P256", "EnableAutomaticRotation": True,
                         "RotationInterval": "30d"},
            "instance": {"DKMSInstanceId": "kst-nowhere"},
            "unsupported": {"Policy": json.dumps({"Version": "1", "Statement": []})},
        }[what]
    if action == "ImportKeyMaterial" and what in ("material", "token"):
        short = w.material(w.token, bytes(31))
        return {**base, **(short if what == "material" else {"ImportToken": JUNK})}
    if what == "origin":
        return {**base, "KeyId": w.key}
    if what == "exists":
        return {**base, "AliasName": w.alias}
    if what == "state":
        return state(w, action, base)
    if what == "rejected":
        return rejected(w, action, base)
    # A key pair for what a symmetric key does, or the other way round; a policy of no instance.
    return named(action, base, w.key if "Algorithm" in base or action in PLAIN_KEY
                 else w.pairs["RSA"]["KeyId"])


PLAIN_KEY = ("GetKeyPolicy", "SetKeyPolicy", "GetPublicKey")


def state(w, action, base):
    if action == "CancelKeyDeletion":
        return {"KeyId": w.key}
    if action == "ImportKeyMaterial":
        key, given = w.waiting()
        w.t.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
        return {"KeyId": key, **w.material(given, bytes(32))}
    return {**base, "KeyId": w.by_state["deletion"]}


def rejected(w, action, base):
    if action == "ScheduleKeyDeletion":
        return {**base, "KeyId": w.protected}
    if action == "DeleteAlias":
        return {"AliasName": "alias/acs/ecs"}
    if action == "UpdateRotationPolicy":
        return {**base, "KeyId": w.pairs["RSA"]["KeyId"]}
    if action == "CreateKeyVersion":
        return {"KeyId": w.key}
    return {**base, "KeyId": w.service}


def every_refusal(t):
    w = World(t)
    parameters = good(w)
    failed = []
    for action, words in PUBLISHED.items():
        for word in words.split():
            code = SHORT[word]
            who = w.nobody if word in ("permission", "dry-denied") else t
            asked = spoiled(w, action, parameters[action], word)
            try:
                who.refused(STATUS.get(code, 400), code, action, **asked)
            except AssertionError as error:
                failed.append(str(error)[:300])
    t.refusals |= w.nobody.refusals
    assert not failed, "\n".join(failed)


def pairs():
    return {(action, SHORT[word]) for action, words in PUBLISHED.items() for word in words.split()}


def main():
    t = Cases("kms", sys.argv[1])
    t.run(every_refusal)
    t.conclude([], pairs())


if __name__ == "__main__":
    main()
