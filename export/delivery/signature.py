"""Signatures of a bundle's digest, in the format that cosign has for keys.

What is signed is a small JSON text, `payload`, that names the digest ("simple signing"). Keys are PEM files: Ed25519,
as `new_keys` makes them, or ECDSA on P-256, as cosign does. Certificates and transparency logs are not read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from export.delivery.errors import DeliveryError
from export.delivery.image import canonical_json

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
"""Where the manifest of a signature holds the signature, in base64; its layer is the payload."""

_TYPE = "cosign container image signature"
_ECDSA = ec.ECDSA(hashes.SHA256())

PrivateKey: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Signature:
    """A signed text and the signature over it."""

    payload: bytes
    value: bytes

    @classmethod
    def make(cls, key: PrivateKey, digest: str, repository: str) -> Self:
        """Sign a digest. `repository` says where it was pushed first; it is signed, but not compared."""
        critical = {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": _TYPE,
        }
        payload = canonical_json({"critical": critical, "optional": {}})
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls(payload, key.sign(payload))
        return cls(payload, key.sign(payload, _ECDSA))

    def holds(self, key: PublicKey, digest: str) -> bool:
        """Whether the owner of `key` signed this digest."""
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(self.value, self.payload)
            else:
                key.verify(self.value, self.payload, _ECDSA)
        except InvalidSignature:
            return False
        return _signed_digest(self.payload) == digest


def require_signature(signatures: Iterable[Signature], key: PublicKey, digest: str, where: str) -> None:
    """Raise DeliveryError unless one of the signatures of a digest was made with the key's other half."""
    count = 0
    for signature in signatures:
        if signature.holds(key, digest):
            return
        count += 1
    found = (
        "it has no signature" if not count else f"none of its {count} signatures was made with this key's other half"
    )
    raise DeliveryError(
        f"{where}: {digest} is not signed: {found}; push it with --sign-key, or give --verify-key the signer's key"
    )


def signatures_to_json(signatures: Iterable[Signature]) -> bytes:
    """Return the content of a file of signatures."""
    return canonical_json([{"payload": encoded(each.payload), "signature": encoded(each.value)} for each in signatures])


def signatures_from_json(content: bytes, where: str) -> list[Signature]:
    """Read a file of signatures. Raises DeliveryError for anything else."""
    try:
        return [Signature(decoded(each["payload"]), decoded(each["signature"])) for each in json.loads(content)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeliveryError(f"{where}: holds no signatures ({error}); push the bundle with --sign-key again") from error


def decoded(text: Any) -> bytes:
    """Return the bytes of base64. Raises ValueError for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error) as error:
        raise ValueError(f"no base64: {error}") from error


def encoded(value: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(value).decode()


def _signed_digest(payload: bytes) -> str | None:
    try:
        critical = json.loads(payload)["critical"]
        return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == _TYPE else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def read_private_key(path: Path) -> PrivateKey:
    """Read a key that signs. Raises DeliveryError for a file that holds none, or an encrypted one."""
    load = partial(serialization.load_pem_private_key, password=None)
    key: PrivateKey = _read_key(path, load, PrivateKey, "give an unencrypted PEM file, as `reflux keys pair` writes")
    return key


def read_public_key(path: Path) -> PublicKey:
    """Read a key that verifies. Raises DeliveryError for a file that holds none."""
    load = serialization.load_pem_public_key
    key: PublicKey = _read_key(path, load, PublicKey, "give the public key's PEM file (`….pub` of `reflux keys pair`)")
    return key


def _read_key(path: Path, load: Callable[[bytes], Any], kinds: Any, remedy: str) -> Any:
    try:
        key = load(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise DeliveryError(f"{path}: {error}; {remedy}") from error
    curve = getattr(key, "curve", None)  # Ed25519 has none
    if isinstance(key, kinds) and (curve is None or isinstance(curve, ec.SECP256R1)):
        return key
    raise DeliveryError(f"{path}: a key of another kind than Ed25519 and ECDSA P-256; make one with `reflux keys pair`")


def new_keys(path: Path) -> Path:
    """Write a new Ed25519 key to `path`, readable by its owner alone, and its public half to `path` + `.pub`.

    Returns the second path. Raises DeliveryError when either exists or cannot be written.
    """
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):  # before one is made, which would stand in the way of the next try
        if file.exists():
            raise DeliveryError(f"{file}: File exists; no key is overwritten, name a new file")
    key = ed25519.Ed25519PrivateKey.generate()
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        for file, content, mode in ((path, private_pem, 0o600), (public, public_pem, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
                target.write(content)
    except OSError as error:
        raise DeliveryError(f"{error.filename}: {error.strerror}; no key is overwritten, name a new file") from error
    return public
