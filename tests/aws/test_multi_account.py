"""Registration of single certificates in an account without the CA: the exported script on moto."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import support
from support import AwsTest, Device, certfactory, run

COUNT = 30


class WithoutTheCa(AwsTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.order = support.make_order(f"WO-{os.urandom(6).hex()}")
        cls.devices = [Device(order=cls.order) for _ in range(COUNT)]
        cls.folder = Path(support.FILES.name, cls.order)
        export = ("cert", "export", "--format", "certificates", "--filter", f"order={cls.order}")
        certfactory(*export, "--output", cls.folder, client="auditor")
        cls.command = [sys.executable, cls.folder / "register-certificates.py", cls.folder / "certificates.ndjson"]

    def setUp(self):
        super().setUp()
        self.journal = Path(support.FILES.name, f"{os.urandom(6).hex()}.done")
        self.iot.create_policy(policyName="FactoryDevicePolicy", policyDocument='{"Version":"2012-10-17","Statement":[]}')

    def register(self, *options, check=True):
        done = run(*self.command, "--journal", self.journal, *options, check=check)
        return json.loads(done.stdout), done

    def statuses(self):
        listed = self.iot.list_certificates(pageSize=200)["certificates"]
        return {one["certificateId"]: one["status"] for one in listed}

    def test_all_are_registered_with_thing_and_policy_and_a_second_run_has_nothing_to_do(self):
        counts, _ = self.register("--things", "--policy", "FactoryDevicePolicy", "--rate", "100")
        self.assertEqual(counts, {"registered": COUNT, "done before": 0, "failed": 0})
        self.assertEqual(self.statuses(), {device.certificate_id: "ACTIVE" for device in self.devices})
        for device in self.devices[:3]:
            arn = self.iot.list_thing_principals(thingName=device.name)["principals"][0]
            self.assertTrue(arn.endswith(device.certificate_id))
            self.assertEqual(len(self.iot.list_attached_policies(target=arn)["policies"]), 1)
        before = len(self.gate.calls)
        self.assertEqual(self.register()[0], {"registered": 0, "done before": COUNT, "failed": 0})
        self.assertEqual(len(self.gate.calls), before, "AWS is not asked at all")

    def test_a_run_that_was_killed_goes_on_where_it_stopped(self):
        process = subprocess.Popen(
            [*self.command, "--journal", self.journal, "--rate", "20"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while self.gate.count("register-no-ca") < 8 and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = self.gate.count("register-no-ca")
        self.assertLess(killed_at, COUNT)
        # As a crash may leave it: half a line.
        with self.journal.open("a") as journal:
            journal.write("0123")
        counts, _ = self.register("--rate", "100")
        self.assertEqual(counts["registered"] + counts["done before"], COUNT)
        self.assertGreater(counts["done before"], 0)
        self.assertEqual(counts["failed"], 0)
        self.assertEqual(len(self.statuses()), COUNT)
        self.assertLessEqual(self.gate.count("register-no-ca"), killed_at + counts["registered"])

    def test_calls_keep_the_quota_and_ride_out_throttling(self):
        self.gate.throttle("register-no-ca", 4)
        counts, _ = self.register("--rate", "20")
        self.assertEqual(counts["registered"], COUNT)
        times = [at for at, call, _ in self.gate.calls if "register-no-ca" in call]
        self.assertEqual(len(times), COUNT + 4)
        # Over the whole run: a busy machine may deliver late calls in a bunch, never early ones.
        self.assertGreater(times[-1] - times[0], (COUNT - 1) / 20 * 0.9)

    def test_what_was_revoked_in_aws_stays_so_and_what_fails_is_said(self):
        revoked, broken = self.devices[0], self.devices[1]
        self.iot.register_certificate_without_ca(certificatePem=revoked.pem, status="REVOKED")
        lines = (self.folder / "certificates.ndjson").read_text().splitlines()
        chosen = [line for line in lines if revoked.certificate_id in line or broken.certificate_id in line]
        file = Path(support.FILES.name, f"{os.urandom(6).hex()}.ndjson")
        file.write_text("".join(re.sub(broken.certificate_id, "5e" * 32, line) + "\n" for line in chosen))
        done = run(*self.command[:2], file, "--journal", self.journal, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(done.stdout), {"registered": 1, "done before": 0, "failed": 1})
        self.assertIn(f"{'5e' * 32}: AWS IoT calls it {broken.certificate_id}", done.stderr)
        self.assertEqual(self.statuses()[revoked.certificate_id], "REVOKED")
        self.assertEqual(self.journal.read_text(), f"{revoked.certificate_id}\n")


if __name__ == "__main__":
    unittest.main()
