"""The service as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@dataclass
class ServiceProcess:
    """`python -m service`: its `port` once it listens, and the `lines` that it logged."""

    process: asyncio.subprocess.Process
    port: int = 0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if self.lines[-1].startswith("{"):
                self.port = json.loads(self.lines[-1]).get("port", self.port)

    @property
    def log(self) -> str:
        """All that it logged."""
        return "\n".join(self.lines)

    @property
    def errors(self) -> list[str]:
        """The lines that are errors or no JSON."""
        return [line for line in self.lines if not line.startswith("{") or json.loads(line).get("level") == "error"]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Return the exit status, once all that it logged has been read."""
        async with asyncio.timeout(PATIENCE):
            await self.following
            return await self.process.wait()


@asynccontextmanager
async def service_process(*command: str, **variables: str) -> AsyncIterator[ServiceProcess]:
    """Start the service on a free port with environment variables; it listens, unless it refused to start.

    `command` are the arguments of Python, by default `-m service`.

    What of it still runs at the end is killed.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")}
    process = ServiceProcess(
        await asyncio.create_subprocess_exec(
            *(sys.executable, *(command or ("-m", "service"))),
            cwd=ROOT,
            env={**inherited, "REFLUX_HOST": "127.0.0.1", "REFLUX_PORT": "0", **variables},
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not process.port and not process.following.done():
                await asyncio.sleep(0.01)
        yield process
    finally:
        if process.process.returncode is None:
            process.process.kill()
        await process.ended()
