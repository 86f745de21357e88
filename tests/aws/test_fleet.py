"""The pre-provisioning hook, on a recorded event, with the running factory and with an exported list."""

import contextlib
import io
import json
import socket
import time
import unittest

import support
from support import SERVICE, AwsTest, Device, certfactory, client, event, load


class PreProvisioningHook(AwsTest):
    def setUp(self):
        super().setUp()
        self.secret()

    def asks(self, handler, claim, device, serial_number="SN1"):
        values = {
            "CLAIM_CERTIFICATE_ID": claim,
            "CERTIFICATE_ID": device.certificate_id if device else "5e" * 32,
            "CERTIFICATE_PEM": device.pem if device else "",
            "SERIAL_NUMBER": serial_number,
        }
        with contextlib.redirect_stdout(io.StringIO()) as log:
            answer = handler.handler(event("pre-provisioning-hook", **values), None)
        self.log = json.loads(log.getvalue())
        return answer

    def assert_refused(self, answer, reason):
        self.assertEqual(answer, {"allowProvisioning": False})
        self.assertEqual(self.log["outcome"], "refused")
        self.assertIn(reason, self.log["reason"])

    def test_a_device_that_the_factory_knows_gets_its_own_name(self):
        claim, device = Device("workshop"), Device()
        handler = load("fleet-provisioning", **SERVICE, CLAIM_PROFILE="workshop")
        answer = self.asks(handler, claim.certificate_id, device)
        self.assertEqual(answer, {"allowProvisioning": True, "parameterOverrides": {"ThingName": device.name}})
        template = json.loads((support.ROADS / "fleet-provisioning/template.json").read_text())
        self.assertLessEqual(set(answer["parameterOverrides"]), set(template["Parameters"]))

    def test_without_a_live_claim_or_a_known_device_the_answer_is_no(self):
        claim, device = Device("workshop"), Device()
        handler = load("fleet-provisioning", **SERVICE, CLAIM_PROFILE="workshop")
        self.assert_refused(self.asks(handler, device.certificate_id, device), "no live claim")
        self.assert_refused(self.asks(handler, "c1" * 32, device), "no live claim")
        self.assert_refused(self.asks(handler, claim.certificate_id, None), "unknown")
        self.assert_refused(self.asks(handler, None, device), "could not tell")

    def test_a_list_by_serial_number_serves_where_aws_signs(self):
        device = Device()
        order = ("--filter", f"cn={device.name}")
        listed = certfactory("cert", "export", "--format", "allow-list", *order, client="auditor").stdout
        s3 = client("s3")
        s3.create_bucket(Bucket="lists", CreateBucketConfiguration={"LocationConstraint": support.REGION})
        s3.put_object(Bucket="lists", Key="allow-list.csv", Body=listed)
        s3.put_object(Bucket="lists", Key="revoked.csv", Body=listed.replace(",issued", ",revoked"))
        environment = {"SOURCE": "s3", "ALLOW_LIST_BUCKET": "lists", "ALLOW_LIST_KEY": "allow-list.csv"}
        by_name = {"ALLOW_LIST_COLUMN": "device", "KEY_PARAMETER": "SerialNumber"}
        handler = load("fleet-provisioning", **environment, **by_name)
        self.assertTrue(self.asks(handler, "c1" * 32, None, device.name)["allowProvisioning"])
        self.assert_refused(self.asks(handler, "c1" * 32, None, "somebody"), "unknown")
        self.assert_refused(self.asks(handler, "c1" * 32, None, ""), "unknown")
        handler = load("fleet-provisioning", **{**environment, **by_name, "ALLOW_LIST_KEY": "revoked.csv"})
        self.assert_refused(self.asks(handler, "c1" * 32, None, device.name), "status revoked")

    def test_the_answer_comes_within_five_seconds_even_from_a_silent_factory(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}"
            handler = load("fleet-provisioning", **{**SERVICE, "CERTFACTORY_URL": url}, CLAIM_PROFILE="workshop")
            start = time.monotonic()
            self.assert_refused(self.asks(handler, "c1" * 32, Device()), "could not tell")
            self.assertLess(time.monotonic() - start, 5)

    def test_claim_and_template_keep_aws_limits(self):
        folder = support.ROADS / "fleet-provisioning"
        policy = json.loads((folder / "claim-policy.json").read_text())
        self.assertLessEqual(len("".join(json.dumps(policy).split())), 2048)
        self.assertLessEqual(len((folder / "template.json").read_text()), 10240)
        # A claim may have a CSR signed, never have AWS make a key.
        self.assertNotIn("certificates/create/", str(policy))


if __name__ == "__main__":
    unittest.main()
