"""A client without a library, so that a test sees what the server does to a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.waiting import PATIENCE


@dataclass
class Connection:
    """One HTTP/1.1 connection to a service on this machine."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect. Raises ConnectionRefusedError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(
        self,
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/classify",
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        """Write a request; with a larger `length` than the body has, the beginning of one."""
        given = {
            "host": "reflux",
            "content-type": "application/json",
            "content-length": str(len(body) if length is None else length),
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def receive(self) -> tuple[int, dict[str, str], Any]:
        """Read an answer: its status, its headers in lower case, its JSON."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def ask(self, body: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
        """Send JSON and read the answer."""
        self.send(json.dumps(body).encode(), **options)
        return await self.receive()

    async def ended(self) -> bool:
        """Whether the server closes the connection without sending anything more. A reset is raised."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read() == b""

    def close(self) -> None:
        """Close it on this side."""
        self.writer.close()
