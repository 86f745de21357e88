"""A checkpoint and an inclusion proof before sigstore's verifier: the log key (PEM), then the service's answer (JSON)."""

import base64
import hashlib
import json
import sys
from types import SimpleNamespace

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring
from sigstore._utils import KeyID
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails

key = load_pem_public_key(open(sys.argv[1], "rb").read())
spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
answer = json.load(open(sys.argv[2]))

checkpoint = SignedCheckpoint.from_text(answer["checkpoint"])
keyring = Keyring([PublicKey(raw_bytes=base64.b64encode(spki), key_details=PublicKeyDetails.PKIX_ECDSA_P256_SHA_256)])
checkpoint.signed_note.verify(keyring, KeyID(hashlib.sha256(spki).digest()))

entry = SimpleNamespace(
    _inner=SimpleNamespace(
        canonicalized_body=base64.b64decode(answer["leaf"]),
        inclusion_proof=SimpleNamespace(
            log_index=answer["log_index"],
            tree_size=checkpoint.checkpoint.log_size,
            hashes=[base64.b64decode(hash) for hash in answer["proof"]],
            root_hash=bytes.fromhex(checkpoint.checkpoint.log_hash),
        ),
    )
)
verify_merkle_inclusion(entry)
print("verified", checkpoint.checkpoint.origin)
