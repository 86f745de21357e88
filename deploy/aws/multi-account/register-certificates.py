#!/usr/bin/env python3
"""Registers an export of `certfactory cert export --format certificates` with AWS IoT, in an
account that does not know the CA (RegisterCertificateWithoutCA). Needs boto3, with credentials
and a Region.

    register-certificates.py certificates.ndjson --journal ACCOUNT-REGION.done [--things] [--policy NAME]

What has been done is in the journal, one certificateId a line: run again, it goes on where it
stopped. A certificate that is registered already keeps its status. Calls are spread to --rate a
second (AWS's quota is 10); a throttled call waits and is tried again.
"""

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WORKERS = 8
WINDOW = 200
# Standard retries: exponential backoff with full jitter, up to 20 s, on throttling and on 5xx.
RETRIES = Config(retries={"mode": "standard", "total_max_attempts": 10}, max_pool_connections=WORKERS)


class Pace:
    """Hands out starting times, at most `rate` a second."""

    def __init__(self, rate):
        self.step = 1 / rate
        self.next = time.monotonic()
        self.lock = threading.Lock()

    def wait(self):
        with self.lock:
            start = max(self.next, time.monotonic())
            self.next = start + self.step
        time.sleep(max(0, start - time.monotonic()))


class Account:
    """One account and Region."""

    def __init__(self, arguments):
        self.iot = boto3.client("iot", config=RETRIES)
        self.pace = Pace(arguments.rate)
        self.status = arguments.status
        self.things = arguments.things
        self.policy = arguments.policy

    def register(self, device):
        """Every step can be repeated. Returns (certificateId, what went wrong or None)."""
        certificate_id = device["certificate_id"]
        try:
            arn = self.certificate(device)
            if self.things:
                self.thing(device["thing_name"], arn)
            if self.policy:
                self.iot.attach_policy(policyName=self.policy, target=arn)
        except (BotoCoreError, ClientError, ValueError) as error:
            return certificate_id, str(error)
        return certificate_id, None

    def certificate(self, device):
        self.pace.wait()
        try:
            made = self.iot.register_certificate_without_ca(
                certificatePem=device["certificate_pem"], status=self.status
            )
        except self.iot.exceptions.ResourceAlreadyExistsException:
            known = self.iot.describe_certificate(certificateId=device["certificate_id"])
            return known["certificateDescription"]["certificateArn"]
        if made["certificateId"] != device["certificate_id"]:
            raise ValueError(f"AWS IoT calls it {made['certificateId']}")
        return made["certificateArn"]

    def thing(self, name, arn):
        try:
            self.iot.create_thing(thingName=name)
        except self.iot.exceptions.ResourceAlreadyExistsException:
            pass  # It has a type or attributes, which stay.
        self.iot.attach_thing_principal(thingName=name, principal=arn)


def done_before(path):
    try:
        with open(path, encoding="ascii") as journal:
            return {bytes.fromhex(line) for line in journal if len(line) == 65}
    except FileNotFoundError:
        return set()


def run(arguments):
    account = Account(arguments)
    done = done_before(arguments.journal)
    counts = {"registered": 0, "done before": 0, "failed": 0}
    with (
        open(arguments.certificates, encoding="utf-8") as lines,
        open(arguments.journal, "a", encoding="ascii") as journal,
        ThreadPoolExecutor(WORKERS) as workers,
    ):
        devices = (json.loads(line) for line in lines)
        while window := list(islice(devices, WINDOW)):
            fresh = [d for d in window if bytes.fromhex(d["certificate_id"]) not in done]
            counts["done before"] += len(window) - len(fresh)
            for certificate_id, fault in workers.map(account.register, fresh):
                if fault is None:
                    # A line that a crash cut in two is shorter than 65 and is not read again.
                    journal.write(f"{certificate_id}\n")
                    journal.flush()
                    counts["registered"] += 1
                else:
                    print(f"{certificate_id}: {fault}", file=sys.stderr)
                    counts["failed"] += 1
    print(json.dumps(counts))
    return 1 if counts["failed"] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("certificates", help="certificates.ndjson")
    parser.add_argument("--journal", required=True, help="one file for each account and Region")
    parser.add_argument("--status", choices=["ACTIVE", "INACTIVE"], default="ACTIVE")
    parser.add_argument("--things", action="store_true", help="make each thing and attach it")
    parser.add_argument("--policy", help="attach this policy, which must exist")
    parser.add_argument("--rate", type=float, default=10, help="registrations a second")
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
