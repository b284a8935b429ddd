"""Who can ask: said once when the service begins to listen, and in `GET /model`."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

from pydantic import BaseModel, Field

from service.settings import Settings, variable


class Access(BaseModel):
    """Who can reach the port, and what they need."""

    keys: bool = Field(description="Whether a request needs an API key.")
    network: bool = Field(description="Whether other machines than this one can reach the port.")
    notice: str | None = Field(description="What is open to whoever reaches the port, and the remedy; null if nothing.")


def access(settings: Settings) -> Access:
    """Tell who can ask a service with these settings."""
    keys, network = settings.api_keys is not None, not _is_loopback(settings.host)
    notice = None
    if network and not keys:
        notice = (
            f"no API keys are set, so whoever reaches {settings.host} may ask; set {variable('api_keys')} to a file of "
            f"keys (`reflux keys new NAME`), or {variable('host')}=127.0.0.1 where only this machine asks"
        )
    return Access(keys=keys, network=network, notice=notice)


def _is_loopback(host: str) -> bool:
    """Whether an address, or the first that a name stands for, is one that no other machine reaches."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4][0]
        address = ip_address(str(found))
    except (OSError, ValueError):
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
