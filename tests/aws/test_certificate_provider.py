"""The certificate provider's Lambda: AWS's CSR in, a certificate of the running factory out."""

import base64
import contextlib
import hashlib
import io
import json
import socket
import time
import unittest
import uuid
from pathlib import Path

import support
from support import SERVICE, AwsTest, Device, certfactory, event, load, make_csr


def public_key(kind, pem):
    return support.run("openssl", kind, "-noout", "-pubkey", stdin=pem).stdout


class CertificateProvider(AwsTest):
    def setUp(self):
        super().setUp()
        self.secret("operator")
        self.name = f"fleet-{uuid.uuid4().hex[:12]}"
        self.csr = self.make()

    def make(self, name=None):
        name = name or self.name
        key = Path(support.FILES.name, f"{uuid.uuid4().hex}.key")
        return make_csr(f"/C=DE/serialNumber=SN{name[6:]}/CN={name}", key)

    def load(self, **environment):
        environment = {**SERVICE, "CERTFACTORY_TIMEOUT_SECONDS": "2", "PROFILE": "lightbulb", **environment}
        return load("certificate-provider", **environment)

    def asks(self, handler, csr, claim="c1" * 32):
        with contextlib.redirect_stdout(io.StringIO()) as log:
            try:
                return handler.handler(event("certificate-provider", CSR=csr, CLAIM_CERTIFICATE_ID=claim), None)
            finally:
                self.log = json.loads(log.getvalue())

    def test_the_factory_issues_for_the_csrs_key_and_records_it(self):
        support.make_order("WO-fleet")
        answer = self.asks(self.load(ORDER="WO-fleet"), self.csr)
        self.assertEqual(set(answer), {"certificatePem"})
        self.assertEqual(public_key("x509", answer["certificatePem"]), public_key("req", self.csr))
        self.assertEqual((self.log["outcome"], self.log["thing_name"]), ("issued", self.name))
        shown = json.loads(certfactory("cert", "show", "--json", self.log["serial_number"]).stdout)
        self.assertEqual(shown["certificate"], answer["certificatePem"])
        self.assertEqual((shown["station"], shown["order"], shown["profile"]), ("operator", "WO-fleet", "lightbulb"))
        self.assertEqual(self.log["certificate_id"], shown["fingerprint_sha256"])

    def test_asking_again_gets_the_same_certificate_whatever_the_line_ends_are(self):
        handler = self.load()
        keys, whole = set(), handler.SERVICE.call

        def listen(method, path, body, headers):
            keys.add(headers["Idempotency-Key"])
            return whole(method, path, body, headers)

        handler.SERVICE.call = listen
        first = self.asks(handler, self.csr)
        self.assertEqual(self.asks(handler, self.csr), first)
        self.assertEqual(self.asks(handler, self.csr.replace("\n", "\r\n")), first)
        self.assertEqual(self.asks(handler, self.csr.strip()), first)
        der = base64.b64decode("".join(self.csr.splitlines()[1:-1]))
        self.assertEqual(keys, {hashlib.sha256(der).hexdigest()})

    def test_what_the_factory_refuses_is_refused_and_the_log_says_why(self):
        handler = self.load()
        self.asks(handler, self.csr)
        nameless = make_csr("/C=DE", Path(support.FILES.name, "nameless.key"))
        for slug, csr in {
            "subject-invalid": nameless,
            "device-already-certified": self.make(),
            "malformed-csr": "-----BEGIN CERTIFICATE REQUEST-----\n????\n-----END CERTIFICATE REQUEST-----\n",
        }.items():
            with self.subTest(slug), self.assertRaises(handler.Refused) as refused:
                self.asks(handler, csr)
            self.assertEqual(refused.exception.slug, slug)
            self.assertEqual((self.log["outcome"], self.log["slug"]), ("refused", slug))
        for odd in ("", "x" * 5000):
            with self.assertRaises(handler.Refused):
                self.asks(handler, odd)
        handler = self.load(PROFILE="nonesuch")
        with self.assertRaises(handler.Refused) as refused:
            self.asks(handler, self.make(f"other-{uuid.uuid4().hex[:12]}"))
        self.assertEqual(refused.exception.slug, "unknown-profile")

    def test_only_a_claim_of_the_right_profile_opens_the_door(self):
        handler = self.load(CLAIM_PROFILE="workshop")
        for claim in ("c1" * 32, Device().certificate_id):
            with self.assertRaisesRegex(handler.Refused, "no live claim"):
                self.asks(handler, self.csr, claim)
        self.assertTrue(self.asks(handler, self.csr, Device("workshop").certificate_id)["certificatePem"])

    def test_a_hiccup_is_ridden_out_and_an_outage_ends_in_time(self):
        handler = self.load()
        calls = []
        whole = handler.SERVICE.call

        def hiccup(*arguments):
            calls.append(arguments)
            return whole(*arguments) if len(calls) > 1 else (503, {"type": "/problems/hsm-unavailable"})

        handler.SERVICE.call = hiccup
        self.assertTrue(self.asks(handler, self.csr)["certificatePem"])
        self.assertEqual(calls[0], calls[1], "the same key and the same request")
        # A service that takes the call and never answers.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            handler = self.load(CERTFACTORY_URL=f"https://127.0.0.1:{silent.getsockname()[1]}")
            start = time.monotonic()
            with self.assertRaises(handler.Unavailable):
                self.asks(handler, self.csr)
            self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(self.log["outcome"], "unavailable")


if __name__ == "__main__":
    unittest.main()
