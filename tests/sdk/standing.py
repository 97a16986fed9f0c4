"""What an account that has not opened the KMS, or owes money, is told through an official client:
`standing.py CLIENT STANDING`."""

import sys

from checks import Cases

CODES = {
    "not-enabled": "Forbidden.KmsServiceNotEnabled",
    "in-debt": "Forbidden.InDebt",
    "suspended": "Forbidden.InDebtOverdue",
}


def every_use_is_refused(t):
    code = CODES[sys.argv[2]]
    t.refused(403, code, "CreateKey")
    t.refused(403, code, "ListKeys")
    t.refused(403, code, "GenerateDataKey", KeyId="alias/any")
    t.call("DescribeAccountKmsStatus")


def it_serves(t):
    key = t.call("CreateKey")["KeyMetadata"]["KeyId"]
    t.call("GenerateDataKey", KeyId=key)


def main():
    t = Cases("kms", sys.argv[1])
    t.run(every_use_is_refused if sys.argv[2] in CODES else it_serves)
    t.conclude(())


if __name__ == "__main__":
    main()
