"""What the functions in this folder share: where they ask whether a device is known.

A source answers with the device's row (a dict), or with None when there is no such device. When it
cannot tell, it raises Unavailable: an outage is never taken for a forgery.

SOURCE=service    asks the factory itself, over mTLS      CERTFACTORY_URL, CERTFACTORY_SECRET_ID
SOURCE=s3         reads an exported allow-list            ALLOW_LIST_BUCKET, ALLOW_LIST_KEY
SOURCE=dynamodb   reads an allow-list in a table          ALLOW_LIST_TABLE

The lists are searched by the column ALLOW_LIST_COLUMN, certificate_id if absent.
"""

import csv
import http.client
import json
import os
import ssl
import tempfile
import time
import urllib.parse

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

SECRET_SECONDS = 300
LIST_SECONDS = 60


class Unavailable(Exception):
    """The source could not tell. Worth another try."""


class Refused(Exception):
    """The factory says no, and would again. The slug is the last part of the problem's type."""

    def __init__(self, slug, detail):
        super().__init__(f"{slug}: {detail}")
        self.slug = slug


def client(name, attempts=3):
    """An AWS client that waits with growing, random pauses when it is throttled."""
    retries = {"mode": "standard", "total_max_attempts": attempts}
    return boto3.client(name, config=Config(connect_timeout=1, read_timeout=3, retries=retries))


def source_from_environment():
    """The source that SOURCE names."""
    kind = os.environ.get("SOURCE", "service")
    column = os.environ.get("ALLOW_LIST_COLUMN", "certificate_id")
    if kind == "service":
        return service_from_environment()
    if kind == "s3":
        return BucketList(os.environ["ALLOW_LIST_BUCKET"], os.environ["ALLOW_LIST_KEY"], column)
    if kind == "dynamodb":
        return TableList(os.environ["ALLOW_LIST_TABLE"], column)
    raise ValueError(f"SOURCE: {kind!r} is not service, s3 or dynamodb")


def service_from_environment():
    """The factory's service."""
    timeout = float(os.environ.get("CERTFACTORY_TIMEOUT_SECONDS", "3"))
    return Service(os.environ["CERTFACTORY_URL"], os.environ["CERTFACTORY_SECRET_ID"], timeout)


class Service:
    """The factory's HTTPS interface, with the client certificate of a secret.

    The secret is JSON: {"certificate": PEM, "key": PEM, "ca": PEM}, the last being the trust anchor
    of the service's own certificate. It is read again after five minutes, and when the service does
    not know the client any more, so that it can be rotated.
    """

    def __init__(self, url, secret_id, timeout_seconds):
        self.address = urllib.parse.urlsplit(url)
        if self.address.scheme != "https" or not self.address.hostname:
            raise ValueError("CERTFACTORY_URL must be https://host[:port]")
        self.secret_id = secret_id
        self.timeout_seconds = timeout_seconds
        self.secrets = client("secretsmanager")
        self.context = None
        self.context_until = 0.0

    def look_up(self, certificate_id):
        status, body = self.call("GET", f"/v1/devices/{certificate_id}")
        if status == 200:
            return body
        # Only the factory's own word counts: a proxy on the way has its own 404.
        if status == 404 and body.get("type") == "/problems/not-found":
            return None
        raise Unavailable(f"the service answered {status} {body.get('type')}")

    def issue(self, request, idempotency_key):
        """Has a certificate issued; the same request gets the same one. Returns its JSON."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        status, body = self.call("POST", "/v1/certificates", json.dumps(request), headers)
        if status in (200, 201):
            return body
        slug = str(body.get("type", "")).rsplit("/", 1)[-1]
        busy = status >= 500 or status == 429 or slug == "request-in-progress"
        if busy or status in (401, 403) or not slug:
            raise Unavailable(f"the service answered {status} {slug}")
        faults = [f"{v.get('rule')} {v.get('attribute')}" for v in body.get("violations", [])]
        raise Refused(slug, "; ".join([str(body.get("detail")), *faults]))

    def call(self, method, path, body=None, headers=None):
        status, answer = self._once(method, path, body, headers)
        if status in (401, 403):
            self.context = None
        return status, answer

    def _once(self, method, path, body, headers):
        try:
            connection = http.client.HTTPSConnection(
                self.address.hostname,
                self.address.port or 443,
                timeout=self.timeout_seconds,
                context=self._context(),
            )
            try:
                connection.request(method, path, body, headers or {})
                response = connection.getresponse()
                text = response.read(1 << 20)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, BotoCoreError, ClientError) as error:
            self.context = None
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}

    def _context(self):
        if self.context is None or time.monotonic() > self.context_until:
            secret = self.secrets.get_secret_value(SecretId=self.secret_id)
            identity = json.loads(secret["SecretString"])
            context = ssl.create_default_context(cadata=identity["ca"])
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # Python reads keys from files only; this one is gone before the first request.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(identity["certificate"] + "\n" + identity["key"])
                file.flush()
                context.load_cert_chain(file.name)
            self.context = context
            self.context_until = time.monotonic() + SECRET_SECONDS
        return self.context


class BucketList:
    """`allow-list.csv` or `allow-list.ndjson` in S3, read again when it has changed.

    Held in memory: about 60 MB for 100,000 devices. Above that, use a table.
    """

    def __init__(self, bucket, key, column):
        self.bucket, self.key, self.column = bucket, key, column
        self.s3 = client("s3")
        self.rows = {}
        self.etag = None
        self.fresh_until = 0.0

    def look_up(self, value):
        if time.monotonic() > self.fresh_until:
            self._read()
        return self.rows.get(value)

    def _read(self):
        condition = {"IfNoneMatch": self.etag} if self.etag else {}
        try:
            found = self.s3.get_object(Bucket=self.bucket, Key=self.key, **condition)
            lines = (line.decode() for line in found["Body"].iter_lines())
            if self.key.endswith(".ndjson"):
                rows = (json.loads(line) for line in lines if line)
            else:
                rows = csv.DictReader(lines)
            self.rows = {row[self.column]: row for row in rows}
            self.etag = found["ETag"]
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("304", "NotModified"):
                raise Unavailable(str(error)) from error
        except (BotoCoreError, ValueError, KeyError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        self.fresh_until = time.monotonic() + LIST_SECONDS


class TableList:
    """The allow-list in DynamoDB, its partition key being the column."""

    def __init__(self, table, column):
        self.table, self.column = table, column
        self.dynamodb = client("dynamodb")

    def look_up(self, value):
        try:
            found = self.dynamodb.get_item(
                TableName=self.table, Key={self.column: {"S": value}}, ConsistentRead=True
            )
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(str(error)) from error
        item = found.get("Item")
        return item and {name: cell["S"] for name, cell in item.items() if "S" in cell}


def log(outcome, **fields):
    """One JSON line in the function's log."""
    print(json.dumps({"outcome": outcome, **fields}), flush=True)
