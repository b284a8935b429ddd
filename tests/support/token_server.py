"""The token server of a registry: whoever has the login, or a refresh token, gets what the scope says, signed."""

from __future__ import annotations

import base64
import datetime
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.support.registry import basic
from tests.support.threaded_server import threaded_server

REFRESH_TOKEN = "a refresh token"
_SERVICE = _ISSUER = "tests"
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "token server")])


@dataclass
class TokenServer:
    """The server at `url`, and the `scopes` that it was asked for; `auth` makes a registry trust it."""

    url: str
    auth: dict[str, Any]
    scopes: list[str] = field(default_factory=list)


@contextmanager
def token_server(folder: Path) -> Iterator[TokenServer]:
    """Serve tokens on a free port; the certificate goes to `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(_NAME, _NAME, key.public_key(), x509.random_serial_number(), now - day, now + day)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "token.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with threaded_server(_Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/token"
        auth = {"realm": url, "service": _SERVICE, "issuer": _ISSUER, "rootcertbundle": str(folder / "token.pem")}
        made = TokenServer(url, {"token": auth})
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        server.made, server.key, server.chain = made, key, chain  # type: ignore[attr-defined]
        yield made


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        known = self.headers.get("authorization") == f"Basic {basic()}"
        self._answer(query["scope"][0] if known else None)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        known = form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [REFRESH_TOKEN]
        self._answer(form["scope"][0] if known else None)

    def _answer(self, scope: str | None) -> None:
        body = {}
        if scope is not None:
            self.server.made.scopes.append(scope)
            body = {"access_token": _token(self.server.key, self.server.chain, scope)}
        content = json.dumps(body).encode()
        self.send_response(401 if scope is None else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _token(key: ec.EllipticCurvePrivateKey, chain: list[str], scope: str) -> str:
    kind, name, actions = scope.split(":")
    access = [{"type": kind, "name": name, "actions": actions.split(",")}]
    now = int(time.time())
    times = {"nbf": now - 60, "iat": now - 60, "exp": now + 300}
    claims = {"iss": _ISSUER, "sub": "ci", "aud": _SERVICE, "jti": "1", "access": access, **times}
    parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ES256", "x5c": chain}, claims)]
    r, s = decode_dss_signature(key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
    return ".".join([*parts, _encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
