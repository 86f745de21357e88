"""A pre-provisioning hook: says whether a device that came with a claim may have its identity.

AWS IoT calls it (payloadVersion 2020-04-01) for each RegisterThing of the template, waits 5 seconds,
and goes on only at {"allowProvisioning": true}. It passes claimCertificateId, certificateId,
certificatePem, templateArn, clientId and the device's own parameters.

    CLAIM_PROFILE   if there: the claim must be a live certificate of that profile, issued by the
                    factory (asked of the service, so CERTFACTORY_* are needed)
    KEY_PARAMETER   if absent: the new certificate must be known by its certificateId (it is, when
                    the certificate provider beside this issued it). If there: the name of a
                    parameter that the device sends, looked up in an allow-list by ALLOW_LIST_COLUMN

The thing's name is never the device's choice: parameterOverrides sets ThingName to what the source
says. SOURCE and what belongs to it: certfactory.py.
"""

import os

import certfactory
from certfactory import Unavailable, log

CLAIM_PROFILE = os.environ.get("CLAIM_PROFILE")
KEY_PARAMETER = os.environ.get("KEY_PARAMETER")
ALLOWED_STATUSES = os.environ.get("ALLOWED_STATUSES", "issued").split(",")
# Two questions and their connections must fit into AWS's 5 seconds.
os.environ.setdefault("CERTFACTORY_TIMEOUT_SECONDS", "1.5")
SOURCE = certfactory.source_from_environment()
CLAIMS = certfactory.service_from_environment() if CLAIM_PROFILE else None


def handler(event, context):
    """Never raises: whatever is not known to be right is refused, and the log says why."""
    try:
        device, reason = check(event)
    except Unavailable as unavailable:
        device, reason = None, f"could not tell: {unavailable}"
    fields = {name: event.get(name) for name in ("claimCertificateId", "certificateId", "clientId")}
    if device is None:
        log("refused", reason=reason, **fields)
        return {"allowProvisioning": False}
    thing_name = device.get("thing_name") or device["device"]
    log("allowed", thing_name=thing_name, **fields)
    return {"allowProvisioning": True, "parameterOverrides": {"ThingName": thing_name}}


def check(event):
    """The device's row, or None and why."""
    if CLAIMS:
        claim = CLAIMS.look_up(str(event.get("claimCertificateId")))
        if not claim or claim["profile"] != CLAIM_PROFILE or claim["status"] != "issued":
            return None, "no live claim"
    if KEY_PARAMETER:
        key = str((event.get("parameters") or {}).get(KEY_PARAMETER, ""))
    else:
        key = str(event.get("certificateId", ""))
    device = SOURCE.look_up(key) if key else None
    if device is None:
        return None, "unknown"
    if device.get("status") not in ALLOWED_STATUSES:
        return None, f"status {device.get('status')}"
    if not (device.get("thing_name") or device.get("device")):
        return None, "a row without a name"
    return device, None
