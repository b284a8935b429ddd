"""What all teachers behind an API share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import httpx

from distill.stages import fingerprint
from distill.teachers.account import Account
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.pricing import Usage
from distill.teachers.base import Teacher


class CallingTeacher(Teacher, Protocol):
    """A teacher whose answers come from calls that it can list before they are made."""

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """List the calls for a text that can be made now and are not paid for; none if it can be answered without."""


class ApiTeacher:
    """A teacher behind one API, asked one text at a time. `headers` authenticate, `usage` reads a response's tokens."""

    kind: str
    batch_size = 1

    def __init__(
        self,
        config: ApiConfig,
        labels: Sequence[str],
        account: Account,
        *,
        headers: Mapping[str, str],
        usage: Callable[[Mapping[str, Any]], Usage | None],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"{self.kind}:{config.model}"
        self.labels = tuple(labels)
        self.concurrency = config.max_in_flight
        self.version = fingerprint([config.answering(), self.labels])
        self.api = Api(config, account, name=self.name, headers=headers, usage=usage, transport=transport)

    @property
    def held(self) -> float:
        """Seconds for which calls are held because the server asked to wait."""
        return self.api.held

    def stop(self) -> None:
        """Start no further call: texts whose calls wait for their turn raise TeacherError."""
        self.api.stop()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()
