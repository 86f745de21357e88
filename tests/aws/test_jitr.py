"""The just-in-time registration Lambda, on recorded events, moto's AWS and the running factory."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from pathlib import Path

from botocore.exceptions import ClientError

import support
from support import SERVICE, AwsTest, Device, certfactory, client, event, load

CA_ID = "ca" * 32


class JustInTimeRegistration(AwsTest):
    def setUp(self):
        super().setUp()
        self.iot.create_policy(policyName="FactoryDevicePolicy", policyDocument='{"Version":"2012-10-17","Statement":[]}')

    def pending(self, device):
        """What AWS IoT has done when the event comes."""
        self.iot.register_certificate_without_ca(certificatePem=device.pem, status="PENDING_ACTIVATION")

    def comes(self, handler, device, name="jitr-first"):
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            answer = handler.handler(event(name, CERTIFICATE_ID=device.certificate_id, CA_CERTIFICATE_ID=CA_ID), None)
        line = json.loads(log.getvalue())
        self.assertEqual(line, answer, "the log says what was done")
        return answer

    def status(self, device):
        return self.iot.describe_certificate(certificateId=device.certificate_id)["certificateDescription"]["status"]

    def assert_in(self, device):
        self.assertEqual(self.status(device), "ACTIVE")
        principals = self.iot.list_thing_principals(thingName=device.name)["principals"]
        self.assertEqual([arn.rsplit("/", 1)[1] for arn in principals], [device.certificate_id])
        policies = self.iot.list_attached_policies(target=principals[0])["policies"]
        self.assertEqual([policy["policyName"] for policy in policies], ["FactoryDevicePolicy"])

    def assert_nothing_made(self):
        self.assertEqual(self.iot.list_things()["things"], [])

    def load(self, **environment):
        return load("jitr", **{"POLICY_NAME": "FactoryDevicePolicy", **SERVICE, **environment})

    def test_a_known_device_gets_in_and_every_repeat_changes_nothing(self):
        self.secret()
        device = Device()
        self.pending(device)
        handler = self.load()
        answer = self.comes(handler, device)
        self.assertEqual(answer["outcome"], "activated")
        self.assertEqual(answer["thing_name"], device.name)
        self.assert_in(device)
        # The event that was sent while the first was worked on.
        self.assertEqual(self.comes(handler, device, "jitr-again")["outcome"], "ignored")
        # A try that died before its last step is done again from the start.
        self.iot.update_certificate(certificateId=device.certificate_id, newStatus="PENDING_ACTIVATION")
        self.assertEqual(self.comes(handler, device, "jitr-again")["outcome"], "activated")
        self.assert_in(device)

    def test_a_certificate_that_the_factory_never_issued_is_switched_off(self):
        self.secret()
        stranger = self.stranger()
        for configured, status in ((None, "INACTIVE"), ("REVOKED", "REVOKED"), ("LEAVE", "PENDING_ACTIVATION")):
            with self.subTest(configured):
                self.iot.update_certificate(certificateId=stranger.certificate_id, newStatus="PENDING_ACTIVATION")
                handler = self.load(**({"UNKNOWN_STATUS": configured} if configured else {}))
                answer = self.comes(handler, stranger)
                self.assertEqual((answer["outcome"], answer["reason"]), ("refused", "unknown"))
                self.assertEqual(self.status(stranger), status)
                self.assert_nothing_made()
        with self.assertRaises(ValueError):
            self.load(UNKNOWN_STATUS="ACTIVE")

    def stranger(self):
        """A certificate that somebody else made."""
        device = Device()
        with tempfile.TemporaryDirectory() as folder:
            pem = support.run(
                *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1".split(),
                *("-keyout", Path(folder, "key"), "-subj", f"/CN={device.name}"),
            ).stdout
        device.pem = pem
        device.certificate_id = support.hashlib.sha256(support.ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        self.pending(device)
        return device

    def test_what_somebody_has_switched_off_stays_off(self):
        self.secret()
        device = Device()
        self.pending(device)
        handler = self.load()
        for status in ("INACTIVE", "REVOKED"):
            self.iot.update_certificate(certificateId=device.certificate_id, newStatus=status)
            answer = self.comes(handler, device, "jitr-again")
            self.assertEqual((answer["outcome"], answer["status"]), ("ignored", status))
            self.assertEqual(self.status(device), status)
        self.assert_nothing_made()

    def test_when_the_factory_cannot_be_asked_nothing_is_decided(self):
        self.secret()
        device = Device()
        self.pending(device)
        closed = f"https://127.0.0.1:{support.free_port()}"
        for name, environment in {
            "no service": {"CERTFACTORY_URL": closed},
            "no secret": {"CERTFACTORY_SECRET_ID": "nonesuch"},
            "not the factory": {"CERTFACTORY_URL": self.gate.url.replace("http:", "https:")},
        }.items():
            with self.subTest(name):
                handler = self.load(**environment)
                with self.assertRaises(handler.certfactory.Unavailable):
                    self.comes(handler, device)
                self.assertEqual(self.status(device), "PENDING_ACTIVATION")
        self.assertEqual(self.gate.count("newStatus="), 0)
        self.assert_nothing_made()
        # It heals by itself.
        self.assertEqual(self.comes(self.load(), device, "jitr-again")["outcome"], "activated")

    def test_a_404_that_is_not_the_factorys_own_is_no_answer(self):
        self.secret()
        handler = self.load()
        with self.assertRaisesRegex(handler.certfactory.Unavailable, "400"):
            handler.SOURCE.look_up("no-certificate-id")
        handler.SOURCE.call = lambda *_: (404, {})
        with self.assertRaisesRegex(handler.certfactory.Unavailable, "404"):
            handler.SOURCE.look_up("5e" * 32)

    def test_throttling_only_takes_longer(self):
        self.secret()
        device = Device()
        self.pending(device)
        handler = self.load()
        for call in ("POST /things/", "PUT /things/", "PUT /target-policies/", "PUT /certificates/", "GET /certificates/"):
            self.gate.throttle(call, 1)
        self.assertEqual(self.comes(handler, device)["outcome"], "activated")
        self.assertEqual(self.gate.count("PUT /target-policies/"), 2)
        self.assert_in(device)

    def test_an_exported_list_is_as_good_as_the_service(self):
        order = support.make_order(f"WO-{os.urandom(6).hex()}")
        device, late = Device(order=order), Device()
        self.pending(device)
        self.pending(late)
        s3 = client("s3")
        s3.create_bucket(Bucket="lists", CreateBucketConfiguration={"LocationConstraint": support.REGION})
        export = ("cert", "export", "--format", "allow-list", "--filter")
        for name, option in (("allow-list.csv", ()), ("allow-list.ndjson", ("--json",))):
            with self.subTest(name):
                self.iot.update_certificate(certificateId=device.certificate_id, newStatus="PENDING_ACTIVATION")
                s3.put_object(Bucket="lists", Key=name, Body=certfactory(*export, f"order={order}", *option, client="auditor").stdout)
                handler = self.load(SOURCE="s3", ALLOW_LIST_BUCKET="lists", ALLOW_LIST_KEY=name, UNKNOWN_STATUS="LEAVE")
                self.assertEqual(self.comes(handler, device)["outcome"], "activated")
                self.assert_in(device)
                self.assertEqual(self.comes(handler, late)["reason"], "unknown")
                # The list has not changed: it is not sent again. Then it has.
                handler.SOURCE.fresh_until = 0
                before = handler.SOURCE.rows
                self.assertEqual(self.comes(handler, late)["reason"], "unknown")
                self.assertIs(handler.SOURCE.rows, before)
                both = certfactory(*export, f"cn={late.name}", *option, client="auditor").stdout
                s3.put_object(Bucket="lists", Key=name, Body=both)
                handler.SOURCE.fresh_until = 0
                self.assertEqual(handler.SOURCE.look_up(late.certificate_id)["device"], late.name)
        handler.SOURCE.key = "nonesuch"
        handler.SOURCE.fresh_until = 0
        with self.assertRaises(handler.certfactory.Unavailable):
            self.comes(handler, late)

    def test_a_table_is_as_good_as_the_service_and_what_it_calls_revoked_is_revoked(self):
        order = support.make_order(f"WO-{os.urandom(6).hex()}")
        device, revoked = Device(order=order), Device(order=order)
        self.pending(device)
        self.pending(revoked)
        dynamodb = client("dynamodb")
        dynamodb.create_table(**json.loads((support.ROADS / "allow-list-table.json").read_text()))
        lines = certfactory("--json", "cert", "export", "--format", "allow-list", "--filter", f"order={order}").stdout
        for line in lines.splitlines():
            row = json.loads(line)
            if row["device"] == revoked.name:
                row["status"] = "revoked"
            dynamodb.put_item(TableName="certfactory-devices", Item={k: {"S": v} for k, v in row.items()})
        handler = self.load(SOURCE="dynamodb", ALLOW_LIST_TABLE="certfactory-devices")
        self.assertEqual(self.comes(handler, device)["outcome"], "activated")
        self.assert_in(device)
        self.assertEqual(self.comes(handler, revoked)["reason"], "revoked")
        self.assertEqual(self.status(revoked), "REVOKED")
        handler = self.load(SOURCE="dynamodb", ALLOW_LIST_TABLE="nonesuch")
        self.iot.update_certificate(certificateId=device.certificate_id, newStatus="PENDING_ACTIVATION")
        with self.assertRaises(handler.certfactory.Unavailable):
            self.comes(handler, device)

    def test_a_thing_that_is_there_already_is_taken_as_it_is(self):
        self.secret()
        device = Device()
        self.pending(device)
        self.iot.create_thing(thingName=device.name, attributePayload={"attributes": {"made": "before"}})
        # moto would overwrite it; this is what AWS IoT says to another type or other attributes.
        self.gate.refuse("POST /things/", 1, 409, "ResourceAlreadyExistsException")
        self.assertEqual(self.comes(self.load(), device)["outcome"], "activated")
        self.assert_in(device)
        self.assertEqual(self.iot.describe_thing(thingName=device.name)["attributes"], {"made": "before"})

    def test_what_is_no_event_or_no_certificate_raises(self):
        self.secret()
        handler = self.load()
        for wrong in ({}, {"certificateId": "5E" * 32}, {"certificateId": None}):
            with self.assertRaises(ValueError):
                handler.handler(wrong, None)
        with self.assertRaises(ClientError):
            handler.handler({"certificateId": "5e" * 32}, None)
        with self.assertRaises(ValueError):
            self.load(SOURCE="guess")


if __name__ == "__main__":
    unittest.main()
