"""Bulk registration: the export's lines, its template and its script.

No emulator has bulk tasks or RegisterThing. So: AWS's own model judges every parameter; the script
runs with the real AWS CLI, whose two missing calls the gate answers; and what AWS does with a line
(register the certificate under its CA, make and attach thing and policy) is done to ministack, which
checks that the CA signed.
"""

import json
import os
import shutil
import unittest
from pathlib import Path

import support
from support import AwsTest, Device, Ministack, Model, certfactory, client, run

LINE_CHARACTERS_MAX = 256_000
BODY_CHARACTERS_MAX = 10_240
ROLE = "arn:aws:iam::123456789012:role/certfactory-bulk"


class BulkRegistration(AwsTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Both issuers: each line brings its own. An order is for one profile, so two lists become one.
        cls.devices, cls.said = [], ""
        for profile, count in (("workshop", 1), ("lightbulb", 2)):
            order = support.make_order(f"WO-{os.urandom(6).hex()}", profile)
            cls.devices += [Device(profile, order) for _ in range(count)]
            before = (cls.folder / "bulk.ndjson").read_text() if cls.said else ""
            cls.folder = Path(support.FILES.name, order)
            export = ("cert", "export", "--format", "bulk", "--filter", f"order={order}", "--output", cls.folder)
            cls.said += certfactory(*export, "--thing-type", "lamp", "--thing-group", "hall-1", client="auditor").stderr
            with open(cls.folder / "bulk.ndjson", "a") as lines:
                lines.write(before)
        cls.lines = (cls.folder / "bulk.ndjson").read_text().splitlines()
        cls.body = (cls.folder / "bulk-template.json").read_text()
        cls.template = json.loads(cls.body)

    def test_each_device_is_one_flat_line_that_fits_the_template(self):
        self.assertIn("1 certificates written, 0 left out", self.said)
        self.assertIn("2 certificates written, 0 left out", self.said)
        self.assertEqual(sorted(os.listdir(self.folder)), ["bulk-template.json", "bulk.ndjson", "register-bulk.sh"])
        self.assertEqual(len(self.lines), 3)
        rows = {}
        for line in self.lines:
            self.assertLessEqual(len(line), LINE_CHARACTERS_MAX)
            row = json.loads(line)
            self.assertTrue(all(isinstance(value, str) for value in row.values()), row)
            self.assertEqual(set(row), set(self.template["Parameters"]))
            self.assertEqual(Model().faults("RegisterThing", {"templateBody": self.body, "parameters": row}), [])
            rows[row["ThingName"]] = row
        for device in self.devices:
            row = rows[device.name]
            self.assertEqual(row["CertificatePem"], device.body["certificate"])
            self.assertEqual(row["CACertificatePem"], device.body["ca_chain"][0])
            self.assertEqual(row["SerialNumber"], device.body["serial_number"])

    def test_the_model_finds_what_is_wrong(self):
        row = json.loads(self.lines[0])
        right = {"templateBody": self.body, "inputFileBucket": "bucket", "inputFileKey": "a/b.ndjson", "roleArn": ROLE}
        self.assertEqual(Model().faults("StartThingRegistrationTask", right), [])
        for wrong in ({"templateBody": "x" * 10_241}, {"inputFileBucket": "a b"}, {"inputFileKey": "ä"}, {"roleArn": "r"}):
            self.assertTrue(Model().faults("StartThingRegistrationTask", {**right, **wrong}), wrong)
        self.assertTrue(Model().faults("RegisterThing", {"templateBody": self.body, "parameters": {**row, "n": 1}}))
        self.assertTrue(Model().faults("RegisterThing", {"templateBody": self.body, "parameters": {"n": "x" * 4097}}))

    def test_the_template_keeps_aws_grammar(self):
        self.assertLessEqual(len(self.body), BODY_CHARACTERS_MAX)
        kinds = [resource["Type"] for resource in self.template["Resources"].values()]
        self.assertEqual(sorted(kinds), ["AWS::IoT::Certificate", "AWS::IoT::Policy", "AWS::IoT::Thing"])
        references = []

        def walk(value):
            if isinstance(value, dict):
                references.extend([value["Ref"]] if set(value) == {"Ref"} else [])
                value = list(value.values())
            if isinstance(value, list):
                for member in value:
                    walk(member)

        walk(self.template["Resources"])
        self.assertEqual(sorted(references), sorted(self.template["Parameters"]))
        thing = self.template["Resources"]["thing"]["Properties"]
        self.assertEqual((thing["ThingTypeName"], thing["ThingGroups"]), ("lamp", ["hall-1"]))

    def test_the_script_starts_a_task_and_waits_for_its_end(self):
        client("s3").create_bucket(
            Bucket="certfactory-123456789012", CreateBucketConfiguration={"LocationConstraint": support.REGION}
        )
        started, states = [], ["InProgress", "InProgress", "Completed"]
        self.gate.answer("POST /thing-registration-tasks$", lambda _, body: started.append(json.loads(body)) or {"taskId": "t-1"})
        self.gate.answer("/thing-registration-tasks/t-1/reports", lambda path, _: {"resourceLinks": [f"https://{path[-6:]}"]})
        self.gate.answer(
            "GET /thing-registration-tasks/t-1$",
            lambda *_: {"status": states.pop(0), "successCount": 3, "failureCount": 0, "percentageProgress": 100},
        )
        script = self.folder / "register-bulk.sh"
        # No waiting: a clock that is not looked at.
        quick = self.folder / "quick.sh"
        quick.write_text(script.read_text().replace("sleep 10", "sleep 0"))
        done = run("bash", quick, "task", "certfactory-123456789012", ROLE)
        quick.unlink()
        self.assertEqual(Model().faults("StartThingRegistrationTask", started[0]), [])
        self.assertEqual(started[0]["templateBody"], self.body)
        stored = client("s3").get_object(Bucket=started[0]["inputFileBucket"], Key=started[0]["inputFileKey"])
        self.assertEqual(stored["Body"].read(), (self.folder / "bulk.ndjson").read_bytes())
        self.assertIn("task t-1", done.stdout)
        self.assertEqual(states, [], "asked until the end")
        self.assertIn("ERRORS:\nhttps://", done.stdout)

    def test_a_task_that_fails_fails_the_script(self):
        client("s3").create_bucket(
            Bucket="certfactory-123456789012", CreateBucketConfiguration={"LocationConstraint": support.REGION}
        )
        self.gate.answer("POST /thing-registration-tasks$", lambda *_: {"taskId": "t-1"})
        self.gate.answer("/reports", lambda *_: {"resourceLinks": []})
        self.gate.answer("GET /thing-registration-tasks/t-1$", lambda *_: {"status": "Failed"})
        done = run(self.folder / "register-bulk.sh", "task", "certfactory-123456789012", ROLE, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)

    def test_a_single_thing_is_one_line_of_the_same_file(self):
        asked = []
        self.gate.answer("POST /things$", lambda _, body: asked.append(json.loads(body)) or {"resourceArns": {}})
        script = self.folder / "register-bulk.sh"
        run(script, "single", self.devices[1].name)
        self.assertEqual(Model().faults("RegisterThing", asked[0]), [])
        self.assertEqual(asked[0]["templateBody"], self.body)
        self.assertEqual(asked[0]["parameters"]["CertificatePem"], self.devices[1].pem)
        self.assertEqual(run(script, "single", "lamp", check=False).returncode, 3)
        self.assertEqual(run(script, "everything", check=False).returncode, 2)
        self.assertEqual(len(asked), 1)

    def test_every_line_makes_what_the_template_says(self):
        aws = Ministack()
        aws.use()
        try:
            iot = client("iot")
            iot.create_policy(policyName="FactoryDevicePolicy", policyDocument='{"Version":"2012-10-17","Statement":[]}')
            iot.create_thing_type(thingTypeName="lamp")
            iot.create_thing_group(thingGroupName="hall-1")
            for issuer in ("line-ec", "line-rsa"):
                pem = (support.WORLD / f"issuers/{issuer}.pem").read_text()
                iot.register_ca_certificate(caCertificate=pem, certificateMode="SNI_ONLY", setAsActive=True)
            for line in self.lines:
                self.apply(iot, json.loads(line))
            for device in self.devices:
                known = iot.describe_certificate(certificateId=device.certificate_id)["certificateDescription"]
                self.assertEqual(known["status"], "ACTIVE")
                thing = iot.describe_thing(thingName=device.name)
                self.assertEqual(thing["attributes"], {"serialNumber": device.body["serial_number"]})
            # The wrong CA is found out: the check above is one.
            swapped = {**json.loads(self.lines[0]), "CACertificatePem": json.loads(self.lines[-1])["CACertificatePem"]}
            with self.assertRaises(iot.exceptions.CertificateValidationException):
                self.apply(iot, swapped)
        finally:
            aws.stop()
            os.environ["AWS_ENDPOINT_URL"] = self.gate.url

    def apply(self, iot, parameters):
        """What RegisterThing does with this template, call by call."""

        def value(of):
            return parameters[of["Ref"]] if isinstance(of, dict) else of

        resources = self.template["Resources"]
        certificate = {k: value(v) for k, v in resources["certificate"]["Properties"].items()}
        thing = resources["thing"]["Properties"]
        arn = iot.register_certificate(
            certificatePem=certificate["CertificatePem"],
            caCertificatePem=certificate["CACertificatePem"],
            status=certificate["Status"],
        )["certificateArn"]
        attributes = {name: value(of) for name, of in thing["AttributePayload"].items()}
        iot.create_thing(
            thingName=value(thing["ThingName"]),
            thingTypeName=thing["ThingTypeName"],
            attributePayload={"attributes": attributes},
        )
        for group in thing["ThingGroups"]:
            iot.add_thing_to_thing_group(thingGroupName=group, thingName=value(thing["ThingName"]))
        iot.attach_thing_principal(thingName=value(thing["ThingName"]), principal=arn)
        iot.attach_policy(policyName=resources["policy"]["Properties"]["PolicyName"], target=arn)

    def test_a_line_starts_with_the_name_that_the_script_looks_for(self):
        self.assertTrue(shutil.which("bash"))
        for line in self.lines:
            self.assertTrue(line.startswith(f'{{"ThingName":"{json.loads(line)["ThingName"]}",'), line)


if __name__ == "__main__":
    unittest.main()
