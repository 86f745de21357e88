#!/usr/bin/env python3
"""A station by Python's standard library: enrols its key, and gives a device its certificate. See README.md.

    station.py enrol CODE_FILE
    station.py device PROFILE TARGET.pem ATTRIBUTE=VALUE...

Every step may be run again: keys and requests stay in their files, so the service sees the same
request, and answers with the same certificate. The standard library makes no keys: `openssl` does.
"""

import hashlib
import http.client
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

FAILURE, USAGE, REFUSED, UNAVAILABLE = 1, 2, 4, 5


class Failure(Exception):
    """What ends the program, with its exit code."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def setting(name, default=None):
    value = os.environ.get(name, default)
    if not value:
        raise Failure(USAGE, f"{name} is not set")
    return value


def openssl(*arguments, given=b""):
    done = subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True, check=False)
    if done.returncode != 0:
        raise Failure(FAILURE, f"openssl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def write(path, content):
    """A file that is there whole or not at all, also after a power cut; nobody else may read it."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def make_request(key, csr):
    """A P-256 key, and a request for it without a subject, unless they are there."""
    if not key.exists():
        write(key, openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    if not csr.exists():
        write(csr, openssl("req", "-new", "-key", key, "-subj", "/"))
    return csr.read_bytes()


class Service:
    """The service, as this station sees it."""

    def __init__(self, enrolled):
        url = urllib.parse.urlsplit(setting("CERTFACTORY_URL", "https://127.0.0.1:8443"))
        self.address = (url.hostname, url.port or 443)
        self.name = setting("CERTFACTORY_STATION")
        self.dir = Path(setting("CERTFACTORY_STATION_DIR", "."))
        self.patience = int(setting("CERTFACTORY_RETRY_SECONDS", "120"))
        self.context = ssl.create_default_context(cafile=setting("CERTFACTORY_CA", "/etc/certfactory/tls/ca.pem"))
        if enrolled:
            self.context.load_cert_chain(self.file(".pem"), self.file(".key"))

    def file(self, extension):
        return self.dir / (self.name + extension)

    def once(self, path, body, headers):
        connection = http.client.HTTPSConnection(*self.address, timeout=30, context=self.context)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Retry-After"), answer.read()
        finally:
            connection.close()

    def post(self, path, body, headers):
        """One POST. Asked again when no answer came, or one that says when to come back: `Retry-After`,
        which is waited for. Twice as long each time, and a part of it by chance, so that a line does not
        come back all at once."""
        give_up = time.monotonic() + self.patience
        wait = 1
        while True:
            try:
                status, after, said = self.once(path, body, headers)
                if status in (200, 201):
                    return said
                if after is None and status not in (408, 429, 502, 503, 504):
                    raise Failure(REFUSED, f"refused: {status}: {said.decode(errors='replace')}")
                why = f"{status}: {said.decode(errors='replace')}"
            except ssl.SSLCertVerificationError as error:
                raise Failure(FAILURE, str(error)) from error
            except (OSError, http.client.HTTPException) as error:
                after, why = None, repr(error)
            pause = max(wait, int(after) if after and after.isdecimal() else 0)
            if time.monotonic() + pause > give_up:
                raise Failure(UNAVAILABLE, f"not served: {why}")
            time.sleep(pause + random.random())
            wait = min(2 * wait, 15)


def code(path):
    """The first word of a file; what is wrong with it is said without it."""
    words = Path(path).read_bytes().split()
    if not words or not words[0].isalnum() or not words[0].isascii():
        raise Failure(USAGE, f"{path}: holds no enrolment code")
    return words[0].decode("ascii")


def enrol(code_file):
    service = Service(enrolled=False)
    csr = make_request(service.file(".key"), service.file(".csr"))
    headers = {
        "Authorization": "Bearer " + code(code_file),
        "Content-Type": "application/pkcs10",
        "Accept": "application/x-pem-file",
    }
    write(service.file(".pem"), service.post(f"/v1/stations/{service.name}/enrolment", csr, headers))
    time.sleep(1.5)  # within a second, the service knows the new key


# The two places to change for a device that is not a file.
def write_device(target, pem):
    write(target, pem)


def read_device(target):
    return target.read_bytes()


def verify(key, pem):
    """The certificate is for the device's key, and its chain verifies."""
    if openssl("x509", "-noout", "-pubkey", given=pem) != openssl("pkey", "-in", key, "-pubout"):
        raise Failure(FAILURE, "the certificate is for another key")
    with tempfile.NamedTemporaryFile() as chain:
        chain.write(pem.partition(b"-----END CERTIFICATE-----\n")[2])
        chain.flush()
        anchor = os.environ.get("CERTFACTORY_DEVICE_CA") or chain.name
        chains = ["-CAfile", anchor, "-untrusted", chain.name]
        openssl("verify", "-partial_chain", "-purpose", "sslclient", *chains, given=pem)


def device(profile, target, *attributes):
    service = Service(enrolled=True)
    target = Path(target)
    if target.suffix != ".pem":
        raise Failure(USAGE, f"{target}: a certificate's file ends in .pem; the key is beside it")
    key = target.with_suffix(".key")
    csr = make_request(key, target.with_suffix(".csr"))
    request = {"profile": profile, "csr": csr.decode("ascii"), "subject": dict(it.split("=", 1) for it in attributes)}
    if os.environ.get("CERTFACTORY_ORDER"):
        request["order"] = os.environ["CERTFACTORY_ORDER"]
    body = json.dumps(request).encode()
    issued = service.post("/v1/certificates", body, {
        "Content-Type": "application/json",
        "Accept": "application/x-pem-file",
        "Idempotency-Key": hashlib.sha256(body).hexdigest(),
    })

    write_device(target, issued)
    found = read_device(target)

    if found != issued:
        raise Failure(FAILURE, f"{target} does not hold what was written")
    verify(key, found)
    serial = openssl("x509", "-noout", "-serial", given=found).decode("ascii").strip().split("=")[1].lower()
    service.post(f"/v1/certificates/{serial}/confirmation", found, {"Content-Type": "application/x-pem-file"})
    print(serial)


def main(arguments):
    match arguments:
        case ["enrol", code_file]:
            enrol(code_file)
        case ["device", profile, target, *attributes] if attributes and all("=" in it for it in attributes):
            device(profile, target, *attributes)
        case _:
            raise Failure(USAGE, "usage: station.py enrol CODE_FILE | device PROFILE TARGET.pem ATTRIBUTE=VALUE...")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        print(f"station.py: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except OSError as error:
        print(f"station.py: {error}", file=sys.stderr)
        sys.exit(FAILURE)
