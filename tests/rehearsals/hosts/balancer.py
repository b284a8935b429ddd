"""The load balancer: HAProxy, which takes a server out when its `/readyz` fails, as a Service of Kubernetes does.

A request is sent to another server only if its connection failed before anything was sent.
"""

from __future__ import annotations

from collections.abc import Mapping

PORT = 8080

CHECK_SECONDS = 0.5
CHECKS = 2
"""A server is taken out after so many failed checks; it must go on serving for longer than they take."""

_CONFIGURATION = """\
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 30s
  timeout check 1s
  retries 3
  option redispatch 1
  retry-on conn-failure
  balance leastconn

frontend clients
  bind {address}:{port}
  default_backend reflux

backend reflux
  option httpchk GET /readyz
  http-check expect status 200
  http-after-response set-header x-served-by %s
  default-server check inter {milliseconds}ms fastinter {milliseconds}ms downinter {milliseconds}ms fall {checks} rise 1
{servers}
"""


def configuration(address: str, servers: Mapping[str, str]) -> str:
    """Return HAProxy's configuration for `servers`, addresses by name, with the port that both listen on."""
    lines = (f"  server {name} {server}:{PORT}" for name, server in servers.items())
    return _CONFIGURATION.format(
        address=address,
        port=PORT,
        milliseconds=round(1000 * CHECK_SECONDS),
        checks=CHECKS,
        servers="\n".join(lines),
    )
