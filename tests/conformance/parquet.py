"""A Parquet export before Apache Arrow's reader, which is not ours: the file, then the NDJSON of the same search."""

import base64
import hashlib
import json
import sys

import pyarrow
import pyarrow.parquet
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SUBJECT = ["CN", "serialNumber", "C", "ST", "L", "O", "OU", "dnQualifier"]
MAYBE = [*SUBJECT, "order", "thing_name", "supersedes", "superseded_by"]
time = pyarrow.timestamp("us", tz="UTC")
types = {"not_before": time, "not_after": time, "issued_at": time, "log_index": pyarrow.int64(), "der": pyarrow.binary()}
names = [
    *["serial_number", "fingerprint_sha256", "spki_sha256", "kind", "profile", "issuer", "station", "order", "device"],
    *SUBJECT,
    *["key_origin", "thing_name", "not_before", "not_after", "issued_at", "status", "supersedes", "superseded_by"],
    *["log_index", "der"],
]

file = pyarrow.parquet.ParquetFile(sys.argv[1])
lines = [json.loads(line) for line in open(sys.argv[2])]
schema = pyarrow.schema([pyarrow.field(name, types.get(name, pyarrow.string()), name in MAYBE) for name in names])
assert file.schema_arrow.equals(schema), file.schema_arrow
assert file.metadata.num_rows == len(lines), file.metadata


def shown(row):
    """What REST says of the same certificate, but for what only it has."""
    row = dict(row)
    der = row.pop("der")
    assert hashlib.sha256(der).hexdigest() == row["fingerprint_sha256"]
    certificate = x509.load_der_x509_certificate(der)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(spki).hexdigest() == row.pop("spki_sha256")
    row["subject"] = {name: value for name in SUBJECT if (value := row.pop(name)) is not None}
    for name, digits in ("not_before", "seconds"), ("not_after", "seconds"), ("issued_at", "milliseconds"):
        row[name] = row[name].isoformat(timespec=digits).replace("+00:00", "Z")
    row["certificate"] = base64.b64encode(der).decode()
    return row


for row, line in zip(file.read().to_pylist(), lines, strict=True):
    for name in "ca_chain", "unconfirmed_seconds":
        line.pop(name, None)
    line["certificate"] = "".join(line["certificate"].splitlines()[1:-1])
    assert shown(row) == line, (shown(row), line)
print("read", len(lines))
