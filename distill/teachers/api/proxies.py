"""Finds the proxy that the environment names for a server; errors name it and its variable.

httpx reads these variables too, but not for a custom transport, and its errors do not name the proxy.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from distill.teachers.api.errors import ApiError
from distill.teachers.errors import TeacherError

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its `url`, which may hold a password, and the `variable` that names it."""

    url: httpx.URL
    variable: str

    @property
    def address(self) -> str:
        """Its address, without a password."""
        port = "" if self.url.port is None else f":{self.url.port}"
        return f"{self.url.scheme}://{self.url.host}{port}"

    def failed(self, host: str, why: str, *, charged: bool = False) -> ApiError:
        """The error of a call that did not reach `host`, or whose answer was lost (`charged`)."""
        return ApiError(
            f"the proxy {self.address}, which {self.variable} names, does not lead to {host}: {why}; is it up, and "
            f"right? Without one, unset {self.variable} or add {host} to no_proxy",
            retryable=True,
            charged=charged,
        )

    def reraise(self, error: BaseException, host: str) -> None:
        """Raise ApiError for a failure before the answer that the proxy may have caused."""
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            raise self.failed(host, str(error) or type(error).__name__) from error
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            raise self.failed(host, f"it broke off ({type(error).__name__})", charged=True) from error


def proxy_for(base_url: str) -> Proxy | None:
    """The proxy for a server, from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in either case.

    Raises TeacherError, which names the variable and hides the password, for an unusable proxy.
    """
    server = urlsplit(base_url)
    found = getproxies()
    kind = next((kind for kind in (server.scheme, "all") if found.get(kind, "").strip()), None)
    if kind is None or _bypassed(server):
        return None
    value = found[kind].strip()
    variable = _variable(kind, found[kind])
    try:
        url = httpx.URL(value if "://" in value else f"http://{value}")
        port = url.port
    except httpx.InvalidURL:
        raise _unusable(variable, "its address or port is invalid") from None  # httpx's message may hold a password
    if url.scheme not in _SCHEMES:
        raise _unusable(variable, f"a proxy of the kind {url.scheme!r} cannot be used")
    if not url.host or (port is not None and not 0 < port < 1 << 16):
        raise _unusable(variable, "it has no host" if not url.host else f"there is no port {port}")
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise _unusable(variable, "a SOCKS proxy needs one more package: pip install 'httpx[socks]'")
    return Proxy(url, variable)


def _unusable(variable: str, why: str) -> TeacherError:
    return TeacherError(
        f"the environment's {variable} names no proxy that can be used: {why}. Write http://HOST:PORT, unset it, or "
        "add the server's host to no_proxy"
    )


def _variable(kind: str, value: str) -> str:
    """The variable with this value, in lower or upper case."""
    names = [name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name] == value]
    return min(names, key=lambda name: name != name.lower(), default=f"{kind}_proxy")


def _bypassed(server: SplitResult) -> bool:
    """Whether `no_proxy` names a server: its host or domain, with or without its port, or its network as CIDR."""
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
