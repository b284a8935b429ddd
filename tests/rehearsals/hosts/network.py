"""Hosts as network namespaces, joined by a switch. Only the network is apart: files and processes are this machine's.

The switch is a bridge in a namespace of its own, so that a firewall of this machine does not filter what passes. This
machine is connected to it as `operator`, from which the rehearsal looks on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.rehearsals.hosts.errors import RehearsalError

PREFIX = "reflux-"
SWITCH = f"{PREFIX}switch"
OPERATOR = f"{PREFIX}op"
NETWORK = "198.18.0.{}"
"""Of the addresses that RFC 2544 sets aside for tests."""

OPERATOR_ADDRESS = NETWORK.format(254)
NOWHERE = "02:00:00:00:00:ff"
"""A hardware address that no host has."""

_GONE_SECONDS = 10.0


class Network:
    """The namespaces of `hosts`, by name in the order of their addresses.

    Raises RehearsalError if there are more than 200 hosts or a name is too long for a network interface.
    """

    def __init__(self, hosts: tuple[str, ...]) -> None:
        if len(hosts) > 200 or any(len(host) > 12 for host in hosts):
            raise RehearsalError("give at most 200 hosts, with names of at most 12 characters")
        self.addresses = {host: NETWORK.format(10 + number) for number, host in enumerate(hosts)}

    @contextlib.contextmanager
    def running(self) -> Iterator[Network]:
        """Make the namespaces, removing those that a killed rehearsal left, and remove them at the end."""
        remove_all()
        try:
            self._make()
            yield self
        finally:
            remove_all()

    def inside(self, host: str, account: str | None = None) -> tuple[str, ...]:
        """Return the beginning of a command line that runs the rest on `host`, and kills it when this process dies.

        The rest runs as `account`, if it is given, else as root.
        """
        return ("ip", "netns", "exec", PREFIX + host, *as_account(account), "--pdeathsig", "KILL")

    def cut(self, one: str, other: str) -> None:
        """Lose every packet between two hosts, silently, as a broken switch does. Other links stay.

        Raises RehearsalError if packets pass all the same.
        """
        for here, there in ((one, other), (other, one)):
            address = self.addresses[there]
            _ip(here, "neigh", "replace", address, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")
        if self._reaches(one, other):
            raise RehearsalError(f"the link between {one} and {other} is cut, and packets still pass")

    def mend(self, one: str, other: str) -> None:
        """Let packets pass between two hosts again."""
        for here, there in ((one, other), (other, one)):
            _ip(here, "neigh", "del", self.addresses[there], "dev", "eth0")

    def _reaches(self, one: str, other: str) -> bool:
        """Return whether a host gets any answer from another within a second, be it that the port is closed."""
        script = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 9)) != errno.ECONNREFUSED)"
        command = ("timeout", "1", sys.executable, "-c", f"import errno; {script}", self.addresses[other])
        return subprocess.run([*self.inside(one), *command]).returncode == 0

    def _make(self) -> None:
        _run("ip", "netns", "add", SWITCH)
        _run("ip", "-n", SWITCH, "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        _run("ip", "-n", SWITCH, "link", "set", "switch", "up")
        _run("ip", "link", "add", OPERATOR, "type", "veth", "peer", "name", "operator", "netns", SWITCH)
        _run("ip", "addr", "add", f"{OPERATOR_ADDRESS}/24", "dev", OPERATOR)
        _run("ip", "link", "set", OPERATOR, "up")
        _run("ip", "-n", SWITCH, "link", "set", "operator", "master", "switch", "up")
        for host, address in self.addresses.items():
            space = PREFIX + host
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", SWITCH)
            _ip(host, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip(host, "link", "set", "eth0", "up")
            _ip(host, "link", "set", "lo", "up")
            _run("ip", "-n", SWITCH, "link", "set", "dev", host, "master", "switch", "up")


def as_account(account: str | None) -> tuple[str, ...]:
    """Return the beginning of a command line that runs the rest as an account of this machine, as root for None."""
    return ("setpriv", *(("--reuid", account, "--regid", account, "--init-groups") if account else ()))


def remove_all() -> None:
    """Kill what runs in namespaces of rehearsals, and remove these."""
    listed = json.loads(_run("ip", "-json", "netns", "list") or "[]")
    spaces = [one["name"] for one in listed if one["name"].startswith(PREFIX)]
    deadline = time.monotonic() + _GONE_SECONDS
    while pids := [int(pid) for space in spaces for pid in _run("ip", "netns", "pids", space).split()]:
        if time.monotonic() > deadline:
            raise RehearsalError(f"processes {pids} of an earlier rehearsal do not end; end them, and start again")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for space in spaces:
        _run("ip", "netns", "delete", space)
    if subprocess.run(["ip", "link", "show", OPERATOR], capture_output=True).returncode == 0:
        _run("ip", "link", "delete", OPERATOR)


def _ip(host: str, *arguments: str) -> None:
    _run("ip", "-n", PREFIX + host, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RehearsalError(f"`{' '.join(command)}`: {done.stderr.strip()}")
    return done.stdout
