"""Disks of ECS 2014-05-26 through an official client: `ecs.py CLIENT`."""

import json
import sys

import clients
from checks import Cases, until

REGION = clients.REGION
ACTIONS = "CreateDisk DescribeDisks AttachDisk DetachDisk DeleteDisk".split()


def disk_of(t, disk):
    answer = t.call("DescribeDisks", RegionId=REGION, DiskIds=json.dumps([disk]))
    (found,) = answer["Disks"]["Disk"]
    return found


def create(t, **parameters):
    return t.call("CreateDisk", RegionId=REGION, ZoneId="cn-hangzhou-i", Size=1, **parameters)


def an_encrypted_disk_lives(t):
    disk = create(t, DiskName=f"disk-{t.kind}", Encrypted=True)["DiskId"]
    until("the disk is there", lambda: disk_of(t, disk)["Status"] == "Available")
    told = disk_of(t, disk)
    assert told["Encrypted"] is True and told["KMSKeyId"] and told["Size"] == 1, told
    t.call("AttachDisk", InstanceId="i-test", DiskId=disk)
    until("it is attached", lambda: disk_of(t, disk)["Status"] == "In_use")
    t.refused(403, "DiskStillAttached", "DeleteDisk", DiskId=disk)
    t.call("DetachDisk", InstanceId="i-test", DiskId=disk)
    until("it is detached", lambda: disk_of(t, disk)["Status"] == "Available")
    t.call("DeleteDisk", DiskId=disk)
    answer = t.call("DescribeDisks", RegionId=REGION, DiskIds=json.dumps([disk]))
    assert answer["TotalCount"] == 0 and answer["Disks"]["Disk"] == [], answer


def a_key_of_ones_own_needs_its_tag(t):
    kms = clients.make(t.kind, t.endpoint, t.key)
    key = kms.call("kms", "CreateKey", {})["KeyMetadata"]["KeyId"]
    own = {"RegionId": REGION, "ZoneId": "z", "Size": 1, "Encrypted": True, "KMSKeyId": key}
    t.refused(403, "InvalidParameter.KMSKeyId.CMKUnauthorized", "CreateDisk", **own)
    tag = [{"TagKey": "acs:ecs:disk-encryption", "TagValue": "true"}]
    kms.call("kms", "TagResource", {"KeyId": key, "Tags": json.dumps(tag)})
    disk = t.call("CreateDisk", **own)["DiskId"]
    assert disk_of(t, disk)["KMSKeyId"] == key
    t.call("DeleteDisk", DiskId=disk)


def what_is_wrong_is_refused(t):
    t.refused(404, "InvalidDiskId.NotFound", "DeleteDisk", DiskId="d-bp1aaaaaaaaaaaaaaaaaa")
    wrong = {"RegionId": REGION, "ZoneId": "z", "Size": 1}
    t.refused(400, "InvalidDiskName.Malformed", "CreateDisk", DiskName="1st", **wrong)
    t.refused(400, "InvalidParameter.EncryptedIllegal", "CreateDisk", KMSKeyId="k", **wrong)
    t.refused(400, "MissingParameter", "DeleteDisk")


def main():
    t = Cases("ecs", sys.argv[1])
    for case in (an_encrypted_disk_lives, a_key_of_ones_own_needs_its_tag, what_is_wrong_is_refused):
        t.run(case)
    t.conclude(ACTIONS)


if __name__ == "__main__":
    main()
