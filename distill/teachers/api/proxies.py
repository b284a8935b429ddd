"""The proxy that the environment names for a server, and the variable that names it, which errors tell.

httpx reads these variables too, but not for a transport that it is given, and its errors do not name the proxy.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from distill.teachers.api.http import ApiError
from distill.teachers.errors import TeacherError

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its `url`, which may have a password in it, and what `named` it."""

    url: httpx.URL
    named: str

    @property
    def address(self) -> str:
        """Where it is, without a password."""
        port = "" if self.url.port is None else f":{self.url.port}"
        return f"{self.url.scheme}://{self.url.host}{port}"

    def failed(self, host: str, why: str, *, charged: bool = False) -> ApiError:
        """The error of a call to a host that did not get through; `charged` where the host may have got it."""
        return ApiError(
            f"the proxy {self.address}, which {self.named} names, does not lead to {host}: {why}; is it up, and right? "
            f"Without one, unset {self.named} or add {host} to no_proxy",
            retryable=True,
            charged=charged,
        )

    def blame(self, error: BaseException, host: str) -> None:
        """Raise ApiError for a failure, before any answer came, that may be the proxy's."""
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            raise self.failed(host, str(error) or type(error).__name__) from error
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            raise self.failed(host, f"it broke off ({type(error).__name__})", charged=True) from error


def proxy_for(base_url: str) -> Proxy | None:
    """The proxy for a server, from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in either case.

    Raises TeacherError, which names the variable and tells no password, for one that cannot be used.
    """
    server = urlsplit(base_url)
    found = getproxies()
    kind = next((kind for kind in (server.scheme, "all") if found.get(kind, "").strip()), None)
    if kind is None or _excepted(server):
        return None
    value = found[kind].strip()
    named = _variable(kind, found[kind])
    try:
        url = httpx.URL(value if "://" in value else f"http://{value}")
        port = url.port
    except httpx.InvalidURL:
        raise _unusable(named, "its address or port is none") from None  # whose message may hold a password
    if url.scheme not in _SCHEMES:
        raise _unusable(named, f"a proxy of the kind {url.scheme!r} cannot be used")
    if not url.host or (port is not None and not 0 < port < 1 << 16):
        raise _unusable(named, "it has no host" if not url.host else f"there is no port {port}")
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise _unusable(named, "a SOCKS proxy needs one more package: pip install 'httpx[socks]'")
    return Proxy(url, named)


def _unusable(named: str, why: str) -> TeacherError:
    return TeacherError(
        f"the environment's {named} names no proxy that can be used: {why}. Write http://HOST:PORT, unset it, or add "
        "the server's host to no_proxy"
    )


def _variable(kind: str, value: str) -> str:
    """The variable that has this value; it may be written in either case."""
    names = [name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name] == value]
    return min(names, key=lambda name: name != name.lower(), default=f"{kind}_proxy")


def _excepted(server: SplitResult) -> bool:
    """Whether `no_proxy` names a server: its host, a domain it is in, either with its port, or a network as CIDR."""
    host = server.hostname or ""
    try:
        port = server.port
    except ValueError:
        port = None
    if proxy_bypass(host) or (port is not None and proxy_bypass(f"{host}:{port}")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks())


def _networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for entry in getproxies().get("no", "").split(","):
        try:
            found.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:
            continue
    return found
