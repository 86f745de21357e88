"""What the tests share: a device with a certificate of the running factory, an AWS to talk to, and a
way to load a Lambda as Lambda does.

The factory is real: its world is in CERTFACTORY_TEST_WORLD, its address in CERTFACTORY_URL, its
command line in CERTFACTORY_PROGRAM. AWS is moto, or ministack where it has more, behind a gate that
can throttle and that writes down what was asked.
"""

import atexit
import hashlib
import http.client
import importlib
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROADS = ROOT / "deploy" / "aws"
WORLD = Path(os.environ["CERTFACTORY_TEST_WORLD"])
URL = os.environ["CERTFACTORY_URL"]
PROGRAM = os.environ["CERTFACTORY_PROGRAM"]
TOOLS = Path(sys.executable).parent
REGION = "eu-central-1"

os.environ.update(
    AWS_DEFAULT_REGION=REGION,
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_EC2_METADATA_DISABLED="true",
)
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
    os.environ.pop(name, None)

logging.getLogger("werkzeug").setLevel(logging.ERROR)
FILES = tempfile.TemporaryDirectory()
atexit.register(FILES.cleanup)

import boto3  # noqa: E402  (after the environment is right)
from botocore.config import Config  # noqa: E402


def run(*command, check=True, cwd=None, stdin=None, **environment):
    """A command to its end; raises with what it said when it fails and should not."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        input=stdin,
        timeout=120,
        env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", **environment},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def certfactory(*arguments, client="operator", check=True):
    """The product's command line, as one of the world's clients."""
    return run(
        PROGRAM,
        *arguments,
        check=check,
        CERTFACTORY_CONFIG=str(WORLD / "config.toml"),
        CERTFACTORY_CLIENT_CERTIFICATE=str(WORLD / f"clients/{client}.pem"),
        CERTFACTORY_CA=str(WORLD / "tls/ca.pem"),
    )


def make_csr(subject, key):
    """A P-256 key in the file `key`; returns the CSR."""
    return run(
        *"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(),
        *("-keyout", key, "-subj", subject),
    ).stdout


def make_order(name, profile="lightbulb"):
    """A work order with room for every device of a test."""
    certfactory("order", "create", name, "--profile", profile, "--quantity", "1000")
    return name


class Device:
    """A device with a certificate of the factory: REST's answer in `body`."""

    def __init__(self, profile="lightbulb", order=None):
        self.name = f"lamp-{uuid.uuid4().hex[:12]}"
        self.key = Path(FILES.name, f"{self.name}.key")
        csr = Path(FILES.name, f"{self.name}.csr")
        csr.write_text(make_csr(f"/C=DE/serialNumber=SN{self.name[5:]}/CN={self.name}", self.key))
        order = ("--order", order) if order else ()
        issued = certfactory("cert", "issue", "--json", "--profile", profile, "--csr", csr, *order)
        self.body = json.loads(issued.stdout)
        self.pem = self.body["certificate"]
        self.certificate_id = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem)).hexdigest()
        self.chain = Path(FILES.name, f"{self.name}.pem")
        self.chain.write_text(self.pem + self.body["ca_chain"][0])


def event(name, **values):
    """A recorded event, its capitals filled in."""
    text = (ROOT / "tests/data/aws" / f"{name}.json").read_text()
    for word, value in values.items():
        text = text.replace(f'"{word}"', json.dumps(value))
    return json.loads(text)


def load(folder, **environment):
    """A Lambda's module, fresh, in its environment."""
    for name in [*load.variables, "handler", "certfactory"]:
        os.environ.pop(name, None)
        sys.modules.pop(name, None)
    load.variables = set(environment) | {"CERTFACTORY_TIMEOUT_SECONDS"}
    os.environ.update(environment)
    # In a package of one folder, as README's zip has them.
    paths = [str(ROADS / folder), str(ROADS / "common")]
    sys.path[:0] = paths
    try:
        return importlib.import_module("handler")
    finally:
        del sys.path[:2]
        os.environ["CERTFACTORY_URL"] = URL


load.variables = set()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Gate:
    """Stands before an AWS. Throttles on demand, answers what the AWS lacks, remembers each call."""

    def __init__(self, port):
        self.calls = []
        self.refusals = []
        self.answers = []
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                target = self.headers.get("X-Amz-Target")
                call = f"{self.command} {self.path}" + (f" {target}" if target else "")
                gate.calls.append((time.monotonic(), call, body))
                for refusal in gate.refusals:
                    pattern, left, status, kind = refusal
                    if left > 0 and re.search(pattern, call):
                        refusal[1] -= 1
                        self.send(status, {"x-amzn-ErrorType": kind}, b'{"message":"refused by the test"}')
                        return
                for pattern, answer in gate.answers:
                    if re.search(pattern, call):
                        self.send(200, {}, json.dumps(answer(self.path, body)).encode())
                        return
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                # The path as it came: S3 and IoT sign and escape differently.
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                text = response.read()
                skip = {"transfer-encoding", "connection", "content-length", "date", "server"}
                self.send(response.status, {k: v for k, v in response.getheaders() if k.lower() not in skip}, text)
                connection.close()

            def send(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self):
        self.calls.clear()
        self.refusals.clear()
        self.answers.clear()

    def refuse(self, pattern, times, status, kind):
        """The next `times` calls that match get an error of AWS IoT."""
        self.refusals.append([pattern, times, status, kind])

    def throttle(self, pattern, times):
        """The next `times` calls that match are throttled."""
        self.refuse(pattern, times, 400, "ThrottlingException")

    def answer(self, pattern, answer):
        """Calls that match are answered by `answer(path, body)`, for what no emulator has."""
        self.answers.append((pattern, answer))

    def count(self, pattern):
        return sum(1 for _, call, _ in self.calls if re.search(pattern, call))


def client(name):
    return boto3.client(name, config=Config(retries={"mode": "standard", "total_max_attempts": 3}))


class AwsTest(unittest.TestCase):
    """A test with a fresh AWS: moto, in this process."""

    @classmethod
    def setUpClass(cls):
        from moto import settings
        from moto.server import ThreadedMotoServer

        # As AWS is: a certificate's id is the hash of its DER.
        settings.default_user_config["iot"] = {"use_valid_cert": True}
        cls.moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        cls.moto.start()
        cls.port = cls.moto.get_host_and_port()[1]
        cls.gate = Gate(cls.port)
        os.environ["AWS_ENDPOINT_URL"] = cls.gate.url

    @classmethod
    def tearDownClass(cls):
        cls.gate.server.shutdown()
        cls.moto.stop()

    def setUp(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/moto-api/reset")
        self.assertEqual(connection.getresponse().status, 200)
        self.gate.reset()
        self.iot = client("iot")

    def secret(self, name="auditor"):
        """The client certificate of one of the world's clients, as the READMEs store it."""
        text = secret_text(name)
        client("secretsmanager").create_secret(Name="certfactory/client", SecretString=text)


def secret_text(name):
    files = (f"clients/{name}.pem", f"clients/{name}.key", "tls/ca.pem")
    return json.dumps(dict(zip(("certificate", "key", "ca"), ((WORLD / f).read_text() for f in files))))


SERVICE = {"SOURCE": "service", "CERTFACTORY_URL": URL, "CERTFACTORY_SECRET_ID": "certfactory/client"}


class Ministack:
    """A ministack of its own, behind a gate: it runs Lambdas and lets devices in over mutual TLS."""

    ACCOUNT = "000000000000"

    def __init__(self):
        self.mqtt = free_port()
        self.port = free_port()
        self.folder = Path(FILES.name, f"ministack-{self.port}")
        self.folder.mkdir()
        self.log = self.folder / "log"
        environment = {
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_PORT": str(self.mqtt),
            "LAMBDA_EXECUTOR": "local",
            # IAM and IoT policies are looked at, as on AWS.
            "AUTH": "true",
            "HOME": str(self.folder),
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_ENDPOINT", "CERTFACTORY"))}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [TOOLS / "ministack"], cwd=self.folder, stdout=log, stderr=log, env={**kept, **environment}
            )
        atexit.register(self.stop)
        end = time.monotonic() + 60
        while "MQTT listening" not in self.log.read_text() or "Running on" not in self.log.read_text():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"ministack did not start: {self.log.read_text()}")
            time.sleep(0.1)
        self.gate = Gate(self.port)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def use(self):
        """Makes the AWS tools and clients of this process talk to it."""
        os.environ["AWS_ENDPOINT_URL"] = self.gate.url

    def trust(self):
        """The trust anchor of its MQTT listener, in a file."""
        file = self.folder / "ca.pem"
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/_ministack/iot/ca.pem")
        file.write_bytes(connection.getresponse().read())
        connection.close()
        return file


class Model:
    """botocore's model of a service: what ParamValidator leaves out (patterns, maxima, enums) too."""

    def __init__(self, service="iot"):
        self.model = boto3.client(service, region_name=REGION).meta.service_model

    def faults(self, operation, parameters):
        from botocore.validate import ParamValidator

        shape = self.model.operation_model(operation).input_shape
        report = ParamValidator().validate(parameters, shape)
        faults = [report.generate_report()] if report.has_errors() else []
        return faults + list(self._faults(parameters, shape, operation))

    def _faults(self, value, shape, path):
        rules = shape.metadata
        if shape.type_name == "structure":
            for name, member in value.items():
                if name in shape.members:
                    yield from self._faults(member, shape.members[name], f"{path}.{name}")
        elif shape.type_name == "map":
            for name, member in value.items():
                yield from self._faults(name, shape.key, f"{path}.{name}(key)")
                yield from self._faults(member, shape.value, f"{path}.{name}")
        elif shape.type_name == "list":
            for member in value:
                yield from self._faults(member, shape.member, f"{path}[]")
        elif isinstance(value, str):
            # botocore leaves patterns in Java's form; the one it does not share is not used here.
            pattern = rules.get("pattern")
            if pattern and "\\p{" not in pattern and not re.fullmatch(pattern, value):
                yield f"{path}: {value!r} does not match {pattern}"
            if rules.get("enum") and value not in rules["enum"]:
                yield f"{path}: {value!r} is not among {rules['enum']}"
        if hasattr(value, "__len__") and len(value) > rules.get("max", len(value)):
            yield f"{path}: {len(value)} is more than {rules['max']}"
