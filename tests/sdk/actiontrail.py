"""ActionTrail 2020-07-06 through an official client: `actiontrail.py CLIENT`."""

import sys

import clients
from checks import Cases, until

KEYS = 5
"""Keys made, hence events to be found."""


def lookup(t, key, value, **parameters):
    attribute = [{"Key": key, "Value": value}]
    return t.call("LookupEvents", LookupAttribute=attribute, **parameters)


def events_are_found(t):
    kms = clients.make(t.kind, t.endpoint, t.key)
    made = [kms.call("kms", "CreateKey", {}) for _ in range(KEYS)]
    key = made[-1]["KeyMetadata"]["KeyId"]
    until("the key's event is there",
          lambda: lookup(t, "ResourceName", key)["Events"])
    (event,) = lookup(t, "ResourceName", key)["Events"]
    assert event["eventName"] == "CreateKey" and event["serviceName"] == "Kms", event
    assert event["requestId"] == made[-1]["RequestId"], event
    assert event["userIdentity"]["type"] == "root-account", event
    assert event["userIdentity"]["accessKeyId"] == t.key.id, event
    assert event["sourceIpAddress"] == "127.0.0.1", event
    for name, value in (("EventName", "CreateKey"), ("EventAccessKeyId", t.key.id)):
        found = lookup(t, name, value, MaxResults="50")["Events"]
        assert {one["RequestId"] for one in made} <= {one["requestId"] for one in found}, name


def a_refusal_is_an_event(t):
    kms = Cases("kms", t.kind)
    nowhere = "00000000-0000-4000-8000-00000000dead"
    refusal = kms.refused(404, "Forbidden.KeyNotFound", "DescribeKey", KeyId=nowhere)
    found = lookup(t, "EventName", "DescribeKey", MaxResults="50")["Events"]
    (event,) = [one for one in found if one["requestId"] == refusal.request_id]
    assert event["errorCode"] == "Forbidden.KeyNotFound", event


def pages_hold_all(t):
    seen, token = [], None
    while True:
        parameters = {"NextToken": token} if token else {}
        answer = lookup(t, "EventName", "CreateKey", MaxResults="2", **parameters)
        assert len(answer["Events"]) <= 2, answer
        seen += [event["eventId"] for event in answer["Events"]]
        token = answer.get("NextToken")
        if not token:
            break
    assert len(seen) == len(set(seen)) >= KEYS, seen


def what_is_wrong_is_refused(t):
    t.refused(400, "InvalidParameter", "LookupEvents", MaxResults="51")
    t.refused(400, "InvalidParameter", "LookupEvents", Direction="SIDEWAYS")
    t.refused(400, "InvalidParameter", "LookupEvents", StartTime="yesterday")
    t.refused(400, "InvalidParameter", "LookupEvents", NextToken="not one of ours")
    wrong = [{"Key": "Colour", "Value": "red"}]
    t.refused(400, "InvalidParameter", "LookupEvents", LookupAttribute=wrong)


def main():
    t = Cases("actiontrail", sys.argv[1])
    cases = (events_are_found, a_refusal_is_an_event, pages_hold_all, what_is_wrong_is_refused)
    for case in cases:
        t.run(case)
    t.conclude(["LookupEvents"])


if __name__ == "__main__":
    main()
