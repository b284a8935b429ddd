"""Programs on hosts: start, wait until they answer, end politely or not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.rehearsals.hosts.errors import RehearsalError
from tests.rehearsals.hosts.network import Network

PATIENCE = 60.0
"""Seconds in which anything of a rehearsal must have happened."""

_LAST_LINES = 8


class Program:
    """One program on a host. `log` is the file with what it printed, appended to by each start."""

    def __init__(
        self,
        network: Network,
        host: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        log: Path,
        account: str | None = None,
    ) -> None:
        self.host, self.log = host, log
        self._name = Path(command[0]).name
        self._command = (*network.inside(host, account), *command)
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, from now on with these variables if they are given."""
        self._environment = dict(environment or self._environment)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the rehearsal, which ends its programs in order
            )

    async def until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it is `ready`. Raises RehearsalError with the end of its log if it ends, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not await ready():
            if not self.runs or time.monotonic() > deadline:
                raise RehearsalError(f"{self._name} on {self.host} does not get ready:\n{self.last_lines()}")
            await asyncio.sleep(0.1)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status. What never began has the status 0."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._process.wait()
        except TimeoutError:
            raise RehearsalError(f"{self._name} on {self.host} does not end:\n{self.last_lines()}") from None

    async def finished(self, seconds: float) -> None:
        """Wait until it ends by itself. Raises RehearsalError if that takes longer than `seconds`, or it fails."""
        assert self._process is not None, "only what was started can end"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        if self._process.returncode != 0:
            raise RehearsalError(f"{self._name} on {self.host} failed or did not end:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(f"  {line[:300]}" for line in lines)
