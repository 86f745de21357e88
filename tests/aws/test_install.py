"""The READMEs, followed call by call against ministack, which runs the installed Lambdas and lets
devices connect over mutual TLS: what is installed must then work for a real client, mosquitto_pub,
with a certificate of the running factory.
"""

import json
import os
import re
import shutil
import time
import unittest
from pathlib import Path

import support
from support import Device, Ministack, Model, certfactory, client, run

SETTINGS = "export AWS_DEFAULT_REGION="


def blocks(readme):
    """A README's commands, but for the settings, which each reader has his own of."""
    found = re.findall(r"^```sh\n(.*?)^```", readme.read_text(), re.M | re.S)
    return [block for block in found if SETTINGS not in block]


class Installation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.aws = Ministack()
        cls.aws.use()
        cls.folder = cls.aws.folder / "aws"
        shutil.copytree(support.ROADS, cls.folder)
        cls.iot = client("iot")
        # What the READMEs want to be there: the CA, and the Lambdas' client certificate.
        registered = cls.iot.register_ca_certificate(
            caCertificate=(support.WORLD / "issuers/line-ec.pem").read_text(),
            certificateMode="SNI_ONLY",
            setAsActive=True,
            allowAutoRegistration=True,
        )
        cls.ca_certificate_id = registered["certificateId"]
        for name, file in (("client.pem", "clients/operator.pem"), ("client.key", "clients/operator.key"), ("service-ca.pem", "tls/ca.pem")):
            shutil.copy(support.WORLD / file, cls.folder / name)
        cls.follow("", "create-secret")
        where = {"LocationConstraint": support.REGION}
        client("s3").create_bucket(Bucket=f"certfactory-{Ministack.ACCOUNT}", CreateBucketConfiguration=where)

    @classmethod
    def tearDownClass(cls):
        cls.aws.stop()

    @classmethod
    def follow(cls, folder, *words, **settings):
        """Runs the blocks of a README that have one of the words, as they stand, in its folder."""
        chosen = [b for b in blocks(support.ROADS / folder / "README.md") if any(word in b for word in words)]
        assert len(chosen) == len(words), (folder, words, chosen)
        settings = {"ACCOUNT": Ministack.ACCOUNT, "CERTFACTORY_URL": support.URL, **settings}
        return run("bash", "-euo", "pipefail", "-c", "\n".join(chosen), cwd=cls.folder / folder, **settings)

    def mosquitto(self, program, device, *options, check=True):
        # By name: AWS IoT wants to hear it in the handshake.
        return run(
            program,
            *("-h", "localhost", "-p", self.aws.mqtt, "-V", "311", "-q", "1", "--cafile", self.aws.trust()),
            *("--cert", device.chain, "--key", device.key, "-i", device.name, *options),
            check=check,
        )

    def connects(self, device):
        topic = ("-t", f"devices/{device.name}/hello", "-m", "hello")
        return self.mosquitto("mosquitto_pub", device, *topic, check=False).returncode == 0

    def status(self, device):
        return self.iot.describe_certificate(certificateId=device.certificate_id)["certificateDescription"]["status"]

    def wait(self, what, expected):
        end = time.monotonic() + 30
        while (found := what()) != expected:
            if time.monotonic() > end:
                self.fail(f"{found} is not {expected}\n{self.aws.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def test_1_a_device_is_dropped_registered_just_in_time_and_let_in(self):
        self.follow("jitr", "create-topic-rule", CA_CERTIFICATE_ID=self.ca_certificate_id)
        # AWS judges AttachPolicy by the certificate it names, ministack by nothing: `*`.
        statement = {"Effect": "Allow", "Action": "iot:AttachPolicy", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client("iam").put_role_policy(RoleName="certfactory-jitr", PolicyName="ministack", PolicyDocument=document)
        device = Device()
        self.assertFalse(self.connects(device), "the first connection is closed")
        self.wait(lambda: self.status(device), "ACTIVE")
        self.assertTrue(self.connects(device), "the second is not")
        elsewhere = ("-t", "devices/another/hello", "-m", "hello")
        self.assertNotEqual(self.mosquitto("mosquitto_pub", device, *elsewhere, check=False).returncode, 0)
        arn = self.iot.list_thing_principals(thingName=device.name)["principals"][0]
        self.assertEqual([p["policyName"] for p in self.iot.list_attached_policies(target=arn)["policies"]], ["FactoryDevicePolicy"])
        # A list that does not have the device yet, as the README says to install it; then one that has.
        late = Device()
        function = {"FunctionName": "certfactory-jitr"}
        s3 = client("s3")
        variables = re.search(r"`Variables=\{(.*?)\}`", (support.ROADS / "jitr/README.md").read_text(), re.S)[1]
        variables = dict(pair.split("=") for pair in variables.replace("$ACCOUNT", Ministack.ACCOUNT).replace("\n", "").split(","))
        header = certfactory("cert", "export", "--format", "allow-list", "--filter", "cn=nobody").stdout
        self.assertEqual(header.count("\n"), 1)
        s3.put_object(Bucket=f"certfactory-{Ministack.ACCOUNT}", Key="allow-list.csv", Body=header)
        client("lambda").update_function_configuration(**function, Environment={"Variables": variables})
        self.assertFalse(self.connects(late))
        self.wait(lambda: "refused" in self.said(function) and self.status(late), "PENDING_ACTIVATION")
        listed = certfactory("cert", "export", "--format", "allow-list", "--filter", f"cn={late.name}").stdout
        s3.put_object(Bucket=f"certfactory-{Ministack.ACCOUNT}", Key="allow-list.csv", Body=listed)
        # A new environment, so the list is read now and not in a minute.
        client("lambda").update_function_configuration(**function, Environment={"Variables": {**variables, "N": "2"}})
        self.assertFalse(self.connects(late), "still pending: the event comes again")
        self.wait(lambda: self.status(late), "ACTIVE")
        self.assertTrue(self.connects(late))

    def said(self, function):
        group = f"/aws/lambda/{function['FunctionName']}"
        events = client("logs").filter_log_events(logGroupName=group)["events"]
        return "\n".join(event["message"] for event in events)

    def test_2_a_claim_gets_the_device_that_the_hook_knows_and_no_other(self):
        claim = Device("workshop")
        name = f"claim-{claim.name}"
        (self.folder / "fleet-provisioning" / f"{name}.pem").write_text(claim.pem)
        # The device policy is there already in this account.
        readme = support.ROADS / "fleet-provisioning/README.md"
        install = next(block for block in blocks(readme) if "create-provisioning-template" in block)
        device_policy = next(line for line in install.splitlines() if "create-policy --policy-name FactoryDevicePolicy" in line)
        if self.policy_exists():
            install = install.replace(device_policy, "")
        run("bash", "-euo", "pipefail", "-c", install, cwd=self.folder / "fleet-provisioning",
            ACCOUNT=Ministack.ACCOUNT, CERTFACTORY_URL=support.URL, CLAIM=name)  # fmt: skip
        # ministack signs as AWS does without a provider, so the hook goes by serial number and list.
        device = Device()
        bucket = f"certfactory-{Ministack.ACCOUNT}"
        listed = certfactory("cert", "export", "--format", "allow-list", "--filter", f"cn={device.name}").stdout
        client("s3").put_object(Bucket=bucket, Key="fleet.csv", Body=listed)
        client("lambda").update_function_configuration(
            FunctionName="certfactory-fleet-hook",
            Environment={
                "Variables": {
                    "SOURCE": "s3",
                    "ALLOW_LIST_BUCKET": bucket,
                    "ALLOW_LIST_KEY": "fleet.csv",
                    "ALLOW_LIST_COLUMN": "device",
                    "KEY_PARAMETER": "SerialNumber",
                    "CLAIM_PROFILE": "workshop",
                    "CERTFACTORY_URL": support.URL,
                    "CERTFACTORY_SECRET_ID": "certfactory/client",
                }
            },
        )
        # A claim cannot have AWS make keys. Here it must, because ministack takes no CSR.
        with self.assertRaisesRegex(AssertionError, "connection was lost"):
            self.provision(claim, device.name, "accepted")
        arn = f"arn:aws:iot:{support.REGION}:{Ministack.ACCOUNT}:"
        topics = [f"{arn}{kind}/$aws/certificates/create/*" for kind in ("topic", "topicfilter")]
        statement = {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive", "iot:Subscribe"], "Resource": topics}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.iot.create_policy(policyName="ministack", policyDocument=document)
        self.iot.attach_policy(policyName="ministack", target=f"{arn}cert/{claim.certificate_id}")
        self.assertIn("errorMessage", self.provision(claim, "somebody-else", "rejected"))
        answer = self.provision(claim, device.name, "accepted")
        self.assertEqual(answer["thingName"], device.name)
        arn = self.iot.list_thing_principals(thingName=device.name)["principals"][0]
        known = self.iot.describe_certificate(certificateId=arn.rsplit("/", 1)[1])["certificateDescription"]
        self.assertEqual(known["status"], "ACTIVE")

    def policy_exists(self):
        return "FactoryDevicePolicy" in [p["policyName"] for p in self.iot.list_policies()["policies"]]

    def provision(self, claim, serial_number, answer):
        """The MQTT conversation of a device: a certificate, then a place in the registry."""
        made = self.ask(claim, "$aws/certificates/create/json", {}, "accepted")
        parameters = {"SerialNumber": serial_number, "ThingName": "my-own-choice"}
        request = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": parameters}
        return self.ask(claim, "$aws/provisioning-templates/certfactory-fleet/provision/json", request, answer)

    def ask(self, claim, topic, request, answer):
        options = ("-t", topic, "-e", f"{topic}/{answer}", "-m", json.dumps(request), "-W", "30")
        return json.loads(self.mosquitto("mosquitto_rr", claim, *options).stdout)

    def test_3_the_certificate_provider_is_installed_and_called_as_aws_calls_it(self):
        created = []
        # No emulator has certificate providers: the gate takes the call, AWS's model judges it.
        self.aws.gate.answer(
            "POST /certificate-providers/certfactory$", lambda _, body: created.append(json.loads(body)) or {}
        )
        self.follow("certificate-provider", "create-certificate-provider", PROFILE="lightbulb")
        parameters = {"certificateProviderName": "certfactory", **created[0]}
        self.assertEqual(Model().faults("CreateCertificateProvider", parameters), [])
        self.assertEqual(created[0]["accountDefaultForOperations"], ["CreateCertificateFromCsr"])
        name = f"fleet-{os.urandom(6).hex()}"
        csr = support.make_csr(f"/C=DE/serialNumber=SN{name[6:]}/CN={name}", Path(support.FILES.name, f"{name}.key"))
        # The installed function wants a claim of the profile `claim`, which this world lacks.
        asked = support.event("certificate-provider", CSR=csr, CLAIM_CERTIFICATE_ID=Device().certificate_id)
        self.assertIn("no live claim", self.invoke(created[0]["lambdaFunctionArn"], asked)["errorMessage"])
        functions = client("lambda")
        function = "certfactory-certificate-provider"
        variables = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
        self.assertEqual(variables["CLAIM_PROFILE"], "claim")
        functions.update_function_configuration(
            FunctionName=function, Environment={"Variables": {**variables, "CLAIM_PROFILE": "lightbulb"}}
        )
        answer = self.invoke(function, asked)
        self.assertIn("BEGIN CERTIFICATE", answer.get("certificatePem", str(answer)))

    def invoke(self, function, payload):
        answer = client("lambda").invoke(FunctionName=function, Payload=json.dumps(payload))
        return json.loads(answer["Payload"].read())

    def test_4_bucket_and_role_for_bulk_registration(self):
        self.follow("bulk", "certfactory-bulk", ACCOUNT="111122223333")
        role = client("iam").get_role(RoleName="certfactory-bulk")["Role"]
        condition = role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]
        self.assertEqual(condition["StringEquals"], {"aws:SourceAccount": "111122223333"})
        self.assertEqual(condition["ArnLike"], {"aws:SourceArn": f"arn:aws:iot:{support.REGION}:111122223333:*"})
        client("s3").head_bucket(Bucket="certfactory-111122223333")

    def test_5_every_policy_is_json_that_aws_takes(self):
        iam = client("iam")
        iam.create_role(RoleName="any", AssumeRolePolicyDocument=(support.ROADS / "lambda-trust.json").read_text())
        files = sorted(support.ROADS.glob("**/*policy.json"))
        self.assertEqual(len(files), 7)
        for file in files:
            text = file.read_text().replace("ACCOUNT", "123456789012").replace("REGION", "eu-central-1")
            self.assertNotIn("ACCOUNT", text)
            if file.name in ("claim-policy.json", "device-policy.json"):
                self.assertLessEqual(len("".join(text.split())), 2048, "AWS IoT's limit, white space left out")
                self.iot.create_policy(policyName=f"try-{file.parent.name}", policyDocument=text)
            else:
                iam.put_role_policy(RoleName="any", PolicyName=file.parent.name, PolicyDocument=text)
            self.assertNotIn('"Action": "*"', text)

    def test_6_an_allow_list_goes_into_a_table(self):
        imported = []
        # moto imports no CSV and ministack nothing: the gate takes the call, AWS's model judges it.
        self.aws.gate.answer(
            r"DynamoDB_\d+\.ImportTable", lambda _, body: imported.append(json.loads(body)) or {"ImportTableDescription": {}}
        )
        account = "444455556666"
        bucket = f"certfactory-{account}"
        client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": support.REGION})
        Device()
        self.follow(
            "",
            "import-table",
            ACCOUNT=account,
            PATH=f"{Path(support.PROGRAM).parent}:{support.TOOLS}:{os.environ['PATH']}",
            CERTFACTORY_CONFIG=str(support.WORLD / "config.toml"),
            CERTFACTORY_CLIENT_CERTIFICATE=str(support.WORLD / "clients/auditor.pem"),
        )
        self.assertEqual(Model("dynamodb").faults("ImportTable", imported[0]), [])
        stored = client("s3").get_object(Bucket=bucket, Key=imported[0]["S3BucketSource"]["S3KeyPrefix"])["Body"].read()
        key = imported[0]["TableCreationParameters"]["KeySchema"][0]["AttributeName"]
        self.assertTrue(stored.decode().startswith(f"{key},"), "the first column is the key")
        self.assertGreater(stored.count(b"\n"), 1)


if __name__ == "__main__":
    unittest.main()
