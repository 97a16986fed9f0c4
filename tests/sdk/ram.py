"""RAM 2015-05-01 through an official client, and what its policies do: `ram.py CLIENT`."""

import json
import sys

import clients
from checks import Cases

ACTIONS = """
CreateUser GetUser ListUsers DeleteUser CreateAccessKey UpdateAccessKey DeleteAccessKey
ListAccessKeys CreatePolicy GetPolicy ListPolicies DeletePolicy AttachPolicyToUser
DetachPolicyFromUser ListPoliciesForUser CreateRole GetRole ListRoles DeleteRole
AttachPolicyToRole DetachPolicyFromRole ListPoliciesForRole
""".split()

USES_KEYS = {
    "Version": "1",
    "Statement": [
        {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:DescribeKey"], "Resource": "*"},
        {"Effect": "Deny", "Action": "kms:DescribeKey", "Resource": "*"},
    ],
}
TRUST = {
    "Version": "1",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": ["ecs.aliyuncs.com"]},
        }
    ],
}


def users(t):
    name = f"ann-{t.kind}"
    made = t.call("CreateUser", UserName=name, DisplayName="Ann")["User"]
    assert made["UserName"] == name and made["UserId"], made
    assert t.call("GetUser", UserName=name)["User"]["UserId"] == made["UserId"]
    listed = t.call("ListUsers", MaxItems=1000)["Users"]["User"]
    assert any(user["UserName"] == name for user in listed), listed
    t.refused(409, "EntityAlreadyExists.User", "CreateUser", UserName=name)
    t.refused(404, "EntityNotExist.User", "GetUser", UserName="nobody")
    t.refused(404, "EntityNotExist.User", "DeleteUser", UserName="nobody")
    t.refused(400, "MissingParameter", "CreateUser")
    t.call("DeleteUser", UserName=name)
    t.refused(404, "EntityNotExist.User", "GetUser", UserName=name)


def access_keys_and_policies(t):
    name, policy = f"bob-{t.kind}", f"uses-keys-{t.kind}"
    t.call("CreateUser", UserName=name)
    made = t.call("CreateAccessKey", UserName=name)["AccessKey"]
    key = clients.AccessKey(made["AccessKeyId"], made["AccessKeySecret"])
    listed = t.call("ListAccessKeys", UserName=name)["AccessKeys"]["AccessKey"]
    assert [entry["Status"] for entry in listed] == ["Active"], listed
    owner = clients.make(t.kind, t.endpoint, t.key)
    cmk = owner.call("kms", "CreateKey", {})["KeyMetadata"]["KeyId"]

    bob = Cases("kms", t.kind)
    bob.client = clients.make(t.kind, t.endpoint, key)
    sealing = {"KeyId": cmk, "Plaintext": "aGVsbG8="}
    bob.refused(403, "Forbidden.NoPermission", "Encrypt", **sealing)

    t.refused(400, "MalformedPolicyDocument", "CreatePolicy", PolicyName="x", PolicyDocument="{")
    t.call("CreatePolicy", PolicyName=policy, PolicyDocument=json.dumps(USES_KEYS))
    t.refused(409, "EntityAlreadyExists.Policy", "CreatePolicy", PolicyName=policy,
              PolicyDocument=json.dumps(USES_KEYS))
    told = t.call("GetPolicy", PolicyName=policy, PolicyType="Custom")["Policy"]
    assert told["PolicyName"] == policy, told
    listed = t.call("ListPolicies", PolicyType="Custom", MaxItems=1000)["Policies"]["Policy"]
    assert any(entry["PolicyName"] == policy for entry in listed), listed
    custom = {"PolicyType": "Custom", "PolicyName": policy}
    t.call("AttachPolicyToUser", UserName=name, **custom)
    attached = t.call("ListPoliciesForUser", UserName=name)["Policies"]["Policy"]
    assert [entry["PolicyName"] for entry in attached] == [policy], attached
    assert bob.call("Encrypt", **sealing)["KeyId"] == cmk
    # A denial wins over a permission.
    bob.refused(403, "Forbidden.NoPermission", "DescribeKey", KeyId=cmk)

    t.refused(409, "DeleteConflict.Policy.User", "DeletePolicy", PolicyName=policy)
    t.refused(409, "DeleteConflict.User.AccessKey", "DeleteUser", UserName=name)
    t.call("UpdateAccessKey", UserName=name, UserAccessKeyId=key.id, Status="Inactive")
    bob.refused(403, "Forbidden.AccessKey", "Encrypt", **sealing)
    t.call("UpdateAccessKey", UserName=name, UserAccessKeyId=key.id, Status="Active")
    bob.call("Encrypt", **sealing)
    t.call("DetachPolicyFromUser", UserName=name, **custom)
    bob.refused(403, "Forbidden.NoPermission", "Encrypt", **sealing)
    t.call("DeleteAccessKey", UserName=name, UserAccessKeyId=key.id)
    bob.refused(404, "InvalidAccessKeyId.NotFound", "Encrypt", **sealing)
    t.call("DeletePolicy", PolicyName=policy)
    t.refused(404, "EntityNotExist.Policy", "GetPolicy", **custom)
    t.call("DeleteUser", UserName=name)


def roles(t):
    name, system = f"role-{t.kind}", "AliyunKMSReadOnlyAccess"
    document = json.dumps(TRUST)
    made = t.call("CreateRole", RoleName=name, AssumeRolePolicyDocument=document)["Role"]
    assert made["RoleName"] == name and made["Arn"].endswith(f":role/{name.lower()}"), made
    assert t.call("GetRole", RoleName=name)["Role"]["RoleId"] == made["RoleId"]
    listed = t.call("ListRoles", MaxItems=1000)["Roles"]["Role"]
    assert any(role["RoleName"] == name for role in listed), listed
    t.refused(409, "EntityAlreadyExists.Role", "CreateRole", RoleName=name,
              AssumeRolePolicyDocument=document)
    policy = {"RoleName": name, "PolicyType": "System", "PolicyName": system}
    t.call("AttachPolicyToRole", **policy)
    attached = t.call("ListPoliciesForRole", RoleName=name)["Policies"]["Policy"]
    assert [entry["PolicyName"] for entry in attached] == [system], attached
    t.refused(409, "DeleteConflict.Role.Policy", "DeleteRole", RoleName=name)
    t.call("DetachPolicyFromRole", **policy)
    t.call("DeleteRole", RoleName=name)
    t.refused(404, "EntityNotExist.Role", "GetRole", RoleName=name)


def main():
    t = Cases("ram", sys.argv[1])
    for case in (users, access_keys_and_policies, roles):
        t.run(case)
    t.conclude(ACTIONS)


if __name__ == "__main__":
    main()
