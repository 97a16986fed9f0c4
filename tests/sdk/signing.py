"""Refused signatures as an official client tells them: `signing.py CLIENT`."""

import sys
from unittest import mock

import clients
from checks import Cases


def with_key(t, key):
    other = Cases("kms", t.kind)
    other.client = clients.make(t.kind, t.endpoint, key)
    return other


def a_wrong_secret(t):
    wrong = with_key(t, clients.AccessKey(t.key.id, "not-the-secret"))
    if t.kind == "v1":
        # This client compares our string to sign with its own: equal, so the secret must be wrong.
        wrong.refused(400, "InvalidAccessKeySecret", "ListKeys")
    else:
        refusal = wrong.refused(400, "SignatureDoesNotMatch", "ListKeys")
        assert refusal.message.count(":") == 1, refusal.message


def an_unknown_access_key(t):
    unknown = with_key(t, clients.AccessKey("LTAI5tNobody", t.key.secret))
    unknown.refused(404, "InvalidAccessKeyId.NotFound", "ListKeys")


def repeated(t, nonce):
    """Patches whatever makes nonces in the client."""
    return {
        "v2-acs3": lambda: mock.patch(
            "alibabacloud_tea_openapi.utils.Utils.get_nonce", lambda: nonce),
        "v2-rpc": lambda: mock.patch(
            "alibabacloud_tea_openapi.utils.Utils.get_nonce", lambda: nonce),
        "v2-acs4": lambda: mock.patch(
            "alibabacloud_tea_util.client.Client.get_nonce", lambda: nonce),
        "v1": lambda: mock.patch(
            "aliyunsdkcore.utils.parameter_helper.get_uuid", lambda: nonce),
    }[t.kind]()


def a_repeated_nonce(t):
    with repeated(t, f"again-{t.kind}"):
        t.call("ListKeys")
        t.refused(400, "SignatureNonceUsed", "ListKeys")


def an_old_request(t):
    old = "2020-01-05T03:04:05Z"
    name = {
        "v2-acs3": "alibabacloud_tea_openapi.utils.Utils.get_timestamp",
        "v2-rpc": "alibabacloud_tea_openapi.utils.Utils.get_timestamp",
        "v2-acs4": "alibabacloud_openapi_util.client.Client.get_timestamp",
        "v1": "aliyunsdkcore.utils.parameter_helper.get_iso_8061_date",
    }[t.kind]
    with mock.patch(name, lambda: old):
        t.refused(400, "InvalidTimeStamp.Expired", "ListKeys")
    with mock.patch(name, lambda: "2026-13-05T03:04:05Z"):
        t.refused(400, "IllegalTimestamp", "ListKeys")


def main():
    t = Cases("kms", sys.argv[1])
    for case in (a_wrong_secret, an_unknown_access_key, a_repeated_nonce, an_old_request):
        t.run(case)
    t.conclude(["ListKeys"])


if __name__ == "__main__":
    main()
