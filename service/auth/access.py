"""Who can use the service: logged when it starts to listen, and part of `GET /model`."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

from pydantic import BaseModel, Field

from service.settings import Settings, variable


class Access(BaseModel):
    """Who can reach the port, and whether they need a key."""

    keys: bool = Field(description="Whether a request needs an API key.")
    network: bool = Field(description="Whether other machines than this one can reach the port.")
    notice: str | None = Field(description="What everyone who reaches the port can use, and the remedy, or null.")


def access(settings: Settings) -> Access:
    """Return who can use a service with these settings."""
    keys, network = settings.api_keys is not None, not _is_loopback(settings.host)
    notice = None
    if network and not keys:
        notice = (
            f"no API keys are set, so everyone who reaches {settings.host} can use the service; set "
            f"{variable('api_keys')} to a file of keys (`reflux keys new NAME`), or {variable('host')}=127.0.0.1 if "
            "only this machine uses it"
        )
    return Access(keys=keys, network=network, notice=notice)


def _is_loopback(host: str) -> bool:
    """Return whether no other machine can reach `host`: an address, or a name that resolves to one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4][0]
        address = ip_address(str(found))
    except (OSError, ValueError):
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
