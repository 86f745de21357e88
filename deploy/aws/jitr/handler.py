"""Just-in-time registration: lets a device in at its first connection, if the factory knows it.

AWS IoT calls it, by a rule, for `$aws/events/certificates/registered/<caCertificateId>`: a device
has connected with a certificate that is new to the account and signed by a registered CA. The
certificate is PENDING_ACTIVATION and stays so until somebody decides. The event comes again at each
further attempt of the device, so every step here can be repeated.

    known      CreateThing, AttachThingPrincipal, AttachPolicy, UpdateCertificate ACTIVE
    unknown    UpdateCertificate to UNKNOWN_STATUS: INACTIVE (if absent), REVOKED, or LEAVE
    revoked    UpdateCertificate to REVOKED_STATUS: REVOKED (if absent), INACTIVE, or LEAVE

Known means: the source has the certificateId with a status among ALLOWED_STATUSES (`issued` if
absent). LEAVE keeps the certificate pending, so that the device is looked up again when it comes
back: for allow-lists that arrive later than devices.

Environment: POLICY_NAME; THING_TYPE (none if absent); SOURCE and what belongs to it (certfactory.py).
"""

import os
import re

import certfactory
from certfactory import log

PENDING = "PENDING_ACTIVATION"
CERTIFICATE_ID = re.compile(r"[0-9a-f]{64}")
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
REFUSALS = ("INACTIVE", "REVOKED", "LEAVE")

POLICY_NAME = os.environ["POLICY_NAME"]
THING_TYPE = os.environ.get("THING_TYPE")
ALLOWED_STATUSES = os.environ.get("ALLOWED_STATUSES", "issued").split(",")
UNKNOWN_STATUS = os.environ.get("UNKNOWN_STATUS", "INACTIVE")
REVOKED_STATUS = os.environ.get("REVOKED_STATUS", "REVOKED")
if UNKNOWN_STATUS not in REFUSALS or REVOKED_STATUS not in REFUSALS:
    raise ValueError(f"UNKNOWN_STATUS and REVOKED_STATUS must be among {REFUSALS}")

# Control-plane calls are throttled at 10 to 15 a second and account: many attempts, growing pauses.
IOT = certfactory.client("iot", attempts=10)
SOURCE = certfactory.source_from_environment()


def handler(event, context):
    """Raises when it cannot tell or cannot finish: Lambda then calls it again."""
    certificate_id = str(event.get("certificateId", ""))
    if not CERTIFICATE_ID.fullmatch(certificate_id):
        raise ValueError(f"no certificateId in {sorted(event)}")

    # An event may be hours old: what is no longer pending, somebody has decided. Nothing that was
    # switched off meanwhile is switched on again.
    certificate = IOT.describe_certificate(certificateId=certificate_id)["certificateDescription"]
    if certificate["status"] != PENDING:
        return done("ignored", certificate_id, status=certificate["status"])

    device = SOURCE.look_up(certificate_id)
    if device is None:
        return refuse(certificate_id, "unknown", UNKNOWN_STATUS)
    if device.get("status") not in ALLOWED_STATUSES:
        return refuse(certificate_id, str(device.get("status")), REVOKED_STATUS)
    thing_name = device.get("thing_name") or device.get("device") or ""
    if not THING_NAME.fullmatch(thing_name):
        return refuse(certificate_id, "no thing name", UNKNOWN_STATUS)

    let_in(thing_name, certificate["certificateArn"])
    IOT.update_certificate(certificateId=certificate_id, newStatus="ACTIVE")
    return done("activated", certificate_id, thing_name=thing_name)


def let_in(thing_name, certificate_arn):
    """Each call has no effect the second time."""
    thing_type = {"thingTypeName": THING_TYPE} if THING_TYPE else {}
    try:
        IOT.create_thing(thingName=thing_name, **thing_type)
    except IOT.exceptions.ResourceAlreadyExistsException:
        pass  # Of another type or with attributes: whoever made it so knows why.
    IOT.attach_thing_principal(thingName=thing_name, principal=certificate_arn)
    IOT.attach_policy(policyName=POLICY_NAME, target=certificate_arn)


def refuse(certificate_id, reason, status):
    if status != "LEAVE":
        IOT.update_certificate(certificateId=certificate_id, newStatus=status)
    return done("refused", certificate_id, reason=reason, status=status)


def done(outcome, certificate_id, **fields):
    log(outcome, certificate_id=certificate_id, **fields)
    return {"outcome": outcome, "certificate_id": certificate_id, **fields}
