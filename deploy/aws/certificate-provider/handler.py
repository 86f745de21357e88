"""An AWS IoT certificate provider: the factory signs what fleet provisioning asks for.

AWS IoT calls it for each CreateCertificateFromCsr of the account, with
{"certificateSigningRequest": PEM, "principalId": the claim's certificateId, "clientId": …}, and
takes {"certificatePem": PEM} for an answer. It must be quick: the device waits.

The request goes to POST /v1/certificates under the profile PROFILE, with the SHA-256 of the CSR as
Idempotency-Key: a device that asks twice gets one certificate. The subject comes from the CSR and
must be one that the profile admits.

Environment: PROFILE; ORDER (none if absent); CLAIM_PROFILE (if there, the claim must be a live
certificate of that profile, issued by this factory); CERTFACTORY_URL, CERTFACTORY_SECRET_ID. The
client certificate must belong to an operator, or to a station when CLAIM_PROFILE is absent.
"""

import base64
import hashlib
import os

import certfactory
from certfactory import Refused, Unavailable, log

CSR_CHARACTERS_MAX = 4096
LABELS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")

PROFILE = os.environ["PROFILE"]
ORDER = os.environ.get("ORDER")
CLAIM_PROFILE = os.environ.get("CLAIM_PROFILE")
SERVICE = certfactory.service_from_environment()


def handler(event, context):
    """Raises when there is no certificate: AWS IoT then refuses the device, which may ask again."""
    csr = event["certificateSigningRequest"]
    who = {"claim": event.get("principalId"), "client_id": event.get("clientId")}
    try:
        check_claim(who["claim"])
        request = {"profile": PROFILE, "csr": csr}
        if ORDER:
            request["order"] = ORDER
        issued = issue(request, hashlib.sha256(der(csr)).hexdigest())
    except Refused as refused:
        log("refused", slug=refused.slug, detail=str(refused), **who)
        raise
    except Unavailable as unavailable:
        log("unavailable", detail=str(unavailable), **who)
        raise
    log(
        "issued",
        serial_number=issued["serial_number"],
        certificate_id=issued["fingerprint_sha256"],
        thing_name=issued["thing_name"],
        **who,
    )
    return {"certificatePem": issued["certificate"]}


def issue(request, key):
    """Once more after a hiccup: the key makes it the same request."""
    try:
        return SERVICE.issue(request, key)
    except Unavailable:
        return SERVICE.issue(request, key)


def check_claim(certificate_id):
    if not CLAIM_PROFILE:
        return
    claim = SERVICE.look_up(certificate_id)
    if claim is None or claim["profile"] != CLAIM_PROFILE or claim["status"] != "issued":
        raise Refused("claim", f"{certificate_id} is no live claim of profile {CLAIM_PROFILE}")


def der(csr):
    """The octets of a CSR: the same whatever its line ends are."""
    lines = [line.strip() for line in csr.strip().splitlines()]
    labels = [f"-----BEGIN {label}-----" for label in LABELS]
    if len(csr) > CSR_CHARACTERS_MAX or not lines or lines[0] not in labels:
        raise Refused("malformed-csr", f"no PEM of at most {CSR_CHARACTERS_MAX} characters")
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError as error:
        raise Refused("malformed-csr", str(error)) from error
