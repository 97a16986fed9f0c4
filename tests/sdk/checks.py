"""Cases, one an action: what they checked is printed, a failure ends the script with status 1."""

import os
import sys
import time
import traceback

import clients

UUID = 36
"""Characters of a request id."""


class Cases:
    """Calls through one client, and keeps count of what was seen of each action."""

    def __init__(self, product, kind):
        self.product, self.kind = product, kind
        key = clients.AccessKey.of_file(os.environ["SEALDISK_ACCESS_KEY"])
        self.key, self.endpoint = key, os.environ["SEALDISK_ENDPOINT"]
        self.client = clients.make(kind, self.endpoint, key)
        self.answered, self.refusals, self.failures = set(), set(), 0

    def call(self, action, **parameters):
        answer = self.client.call(self.product, action, parameters)
        assert len(answer["RequestId"]) == UUID, answer
        self.answered.add(action)
        return answer

    def refused(self, status, code, action, **parameters):
        try:
            answer = self.client.call(self.product, action, parameters)
        except clients.Refused as refusal:
            assert (refusal.status, refusal.code) == (status, code), (
                f"{action} {parameters}: {refusal}, not {status} {code}"
            )
            assert refusal.request_id and len(refusal.request_id) == UUID, refusal.request_id
            self.refusals.add((action, code))
            return refusal
        raise AssertionError(f"{action} {parameters} was answered {answer}, not {status} {code}")

    def run(self, case):
        """Runs one case; what failed is told, and the next one runs."""
        try:
            case(self)
            print(f"{self.kind} {case.__name__}: ok")
        except Exception:  # whatever a client raises
            self.failures += 1
            print(f"{self.kind} {case.__name__}: FAILED", file=sys.stderr)
            traceback.print_exc()

    def conclude(self, expected, refusals=()):
        """Every expected action was answered at least once, and every published refusal met."""
        for action, code in sorted(set(refusals) - self.refusals):
            self.failures += 1
            print(f"{self.kind} {action}: never refused with {code}", file=sys.stderr)
        for action in sorted(set(expected) - self.answered):
            self.failures += 1
            print(f"{self.kind} {action}: no happy path", file=sys.stderr)
        kinds = len(self.refusals)
        print(f"{self.kind}: {len(self.answered)} actions answered, {kinds} refusals as published")
        sys.exit(1 if self.failures else 0)


def until(what, is_so, seconds=10):
    """Waits for something that comes by itself."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"in vain: waiting until {what}"
        time.sleep(0.05)
