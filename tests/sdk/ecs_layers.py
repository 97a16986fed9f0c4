"""Snapshots, images and tags of ECS 2014-05-26 through an official client: `ecs_layers.py CLIENT`."""

import json
import sys

import clients
from checks import Cases, until
from ecs import create, disk_of

REGION = clients.REGION
ACTIONS = """CreateSnapshot DescribeSnapshots ModifySnapshotAttribute DeleteSnapshot CopySnapshot
  CreateImage DescribeImages ModifyImageAttribute DeleteImage CopyImage CreateDisk
  ModifyDiskAttribute ResizeDisk ResetDisk ReInitDisk
  TagResources UntagResources ListTagResources""".split()


def snapshot_of(t, snapshot):
    answer = t.call("DescribeSnapshots", RegionId=REGION, SnapshotIds=json.dumps([snapshot]))
    (found,) = answer["Snapshots"]["Snapshot"]
    return found


def image_of(t, image, status="Creating,Available,CreateFailed"):
    answer = t.call("DescribeImages", RegionId=REGION, ImageId=image, Status=status)
    (found,) = answer["Images"]["Image"]
    return found


def a_disk(t, **parameters):
    disk = create(t, Encrypted=True, **parameters)["DiskId"]
    until("the disk is there", lambda: disk_of(t, disk)["Status"] == "Available")
    return disk


def taken(t, disk, **parameters):
    snapshot = t.call("CreateSnapshot", DiskId=disk, **parameters)["SnapshotId"]
    until("it is taken", lambda: snapshot_of(t, snapshot)["Status"] == "accomplished")
    return snapshot


def a_snapshot_lives(t):
    disk = a_disk(t)
    tags = [{"Key": "plan", "Value": "daily"}]
    snapshot = taken(t, disk, SnapshotName=f"snap-{t.kind}", RetentionDays=3, Tag=tags)
    told = snapshot_of(t, snapshot)
    assert told["SourceDiskId"] == disk and told["SourceDiskSize"] == "1", told
    assert told["Encrypted"] is True and told["KMSKeyId"] and told["Progress"] == "100%", told
    assert told["RetentionDays"] == 3 and told["Usage"] == "none", told
    assert told["Tags"]["Tag"] == [{"TagKey": "plan", "TagValue": "daily"}], told
    t.call("ModifySnapshotAttribute", SnapshotId=snapshot, Description="kept")
    assert snapshot_of(t, snapshot)["Description"] == "kept"
    clone = t.call("CreateDisk", RegionId=REGION, ZoneId="z", SnapshotId=snapshot)["DiskId"]
    told = disk_of(t, clone)
    assert told["SourceSnapshotId"] == snapshot and told["Encrypted"] is True, told
    t.refused(403, "SnapshotCreatedDisk", "DeleteSnapshot", SnapshotId=snapshot)
    t.call("DeleteDisk", DiskId=clone)
    t.call("DeleteSnapshot", SnapshotId=snapshot, Force=True)
    answer = t.call("DescribeSnapshots", RegionId=REGION, DiskId=disk)
    assert answer["TotalCount"] == 0, answer
    t.call("DeleteDisk", DiskId=disk)


def an_image_and_copies_live(t):
    disk = a_disk(t)
    snapshot = taken(t, disk)
    copied = t.call(
        "CopySnapshot",
        RegionId=REGION,
        SnapshotId=snapshot,
        DestinationRegionId=REGION,
        DestinationSnapshotName="copy",
        DestinationSnapshotDescription="",
    )["SnapshotId"]
    until("it is copied", lambda: snapshot_of(t, copied)["Status"] == "accomplished")
    assert snapshot_of(t, copied)["SourceSnapshotId"] == snapshot
    named = {"RegionId": REGION, "ImageName": f"image-{t.kind}"}
    image = t.call("CreateImage", SnapshotId=snapshot, **named)["ImageId"]
    told = image_of(t, image, "Available")
    mapping = told["DiskDeviceMappings"]["DiskDeviceMapping"][0]
    assert mapping["SnapshotId"] == snapshot and told["ImageOwnerAlias"] == "self", told
    t.call("ModifyImageAttribute", RegionId=REGION, ImageId=image, Description="golden")
    assert image_of(t, image)["Description"] == "golden"
    second = t.call("CopyImage", RegionId=REGION, ImageId=image, DestinationImageName="second")
    second = second["ImageId"]
    until("it is copied", lambda: image_of(t, second)["Status"] == "Available")
    t.refused(403, "SnapshotCreatedImage", "DeleteSnapshot", SnapshotId=snapshot)
    for one in (image, second):
        t.call("DeleteImage", RegionId=REGION, ImageId=one)
    for one in (snapshot, copied):
        t.call("DeleteSnapshot", SnapshotId=one)
    t.call("DeleteDisk", DiskId=disk)


def a_disk_grows_and_goes_back(t):
    disk = a_disk(t)
    snapshot = taken(t, disk)
    t.call("ModifyDiskAttribute", DiskId=disk, DiskName=f"renamed-{t.kind}")
    assert disk_of(t, disk)["DiskName"] == f"renamed-{t.kind}"
    t.call("ResizeDisk", DiskId=disk, NewSize=2, Type="online")
    assert disk_of(t, disk)["Size"] == 2
    t.refused(403, "InvalidDiskSize.TooSmall", "ResizeDisk", DiskId=disk, NewSize=1)
    t.call("ResetDisk", DiskId=disk, SnapshotId=snapshot)
    t.call("ReInitDisk", DiskId=disk)
    other = a_disk(t)
    t.refused(
        403, "InvalidParameter.Mismatch", "ResetDisk", DiskId=other, SnapshotId=snapshot
    )
    t.call("DeleteSnapshot", SnapshotId=snapshot)
    for one in (disk, other):
        t.call("DeleteDisk", DiskId=one)


def tags_are_put_listed_and_taken_off(t):
    disk = a_disk(t)
    on = {"RegionId": REGION, "ResourceType": "disk", "ResourceId": [disk]}
    t.call("TagResources", Tag=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}], **on)
    listed = t.call("ListTagResources", **on)["TagResources"]["TagResource"]
    assert {(tag["TagKey"], tag["TagValue"]) for tag in listed} == {("a", "1"), ("b", "")}, listed
    found = t.call("DescribeDisks", RegionId=REGION, Tag=[{"Key": "a", "Value": "1"}])
    assert [one["DiskId"] for one in found["Disks"]["Disk"]] == [disk], found
    t.call("UntagResources", TagKey=["a"], **on)
    listed = t.call("ListTagResources", **on)["TagResources"]["TagResource"]
    assert [tag["TagKey"] for tag in listed] == ["b"], listed
    t.call("DeleteDisk", DiskId=disk)


def what_is_wrong_is_refused(t):
    none = "s-bp1aaaaaaaaaaaaaaaaa"
    t.refused(404, "InvalidSnapshotId.NotFound", "DeleteSnapshot", SnapshotId=none)
    t.refused(404, "InvalidDiskId.NotFound", "CreateSnapshot", DiskId="d-bp1aaaaaaaaaaaaaaaaa")
    t.refused(404, "InvalidImageId.NotFound", "DeleteImage", RegionId=REGION, ImageId="m-none")
    elsewhere = {"RegionId": REGION, "DestinationRegionId": "cn-beijing", "SnapshotId": none}
    t.refused(
        404,
        "InvalidRegionId.NotFound",
        "CopySnapshot",
        DestinationSnapshotName="c",
        DestinationSnapshotDescription="",
        **elsewhere,
    )
    wrong = {"RegionId": REGION, "ResourceType": "vpc", "ResourceId": ["v"]}
    tag = [{"Key": "a", "Value": "1"}]
    t.refused(404, "InvalidResourceType.NotFound", "TagResources", Tag=tag, **wrong)


def main():
    t = Cases("ecs", sys.argv[1])
    cases = (
        a_snapshot_lives,
        an_image_and_copies_live,
        a_disk_grows_and_goes_back,
        tags_are_put_listed_and_taken_off,
        what_is_wrong_is_refused,
    )
    for case in cases:
        t.run(case)
    t.conclude(ACTIONS)


if __name__ == "__main__":
    main()
