"""What all teachers behind an API share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import httpx

from distill.stages import fingerprint
from distill.teachers.account import Account, NoAccount
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.pricing import Usage
from distill.teachers.base import Answer, Teacher
from distill.teachers.errors import TeacherError

Config = TypeVar("Config", bound=ApiConfig)


class Calling(Protocol):
    """What makes calls about texts, and can list them before they are made."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def version(self) -> str:
        """A hash of the settings that determine the calls."""

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """List the calls for a text that can be made now and are not paid for; none if it can be answered without."""


class CallingTeacher(Calling, Teacher, Protocol):
    """A teacher whose answers come from calls that it can list before they are made."""


class ApiTeacher(ABC, Generic[Config]):
    """A teacher behind one API, asked one text at a time."""

    kind: ClassVar[str]
    batch_size = 1

    def __init__(
        self,
        config: Config,
        labels: Sequence[str],
        account: Account,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"{self.kind}:{config.model}"
        self.labels = tuple(labels)
        self.concurrency = config.max_in_flight
        self.orders = config.permutations
        self.version = fingerprint([config.answering(), self.labels])
        self._config = config
        self._transport = transport
        self.api = self._make_api(self.name, account)
        self._build()

    @classmethod
    def from_config(cls, config: Any, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the teacher without a call. Raises TeacherError for unsuitable labels, terms of use or prices."""
        config.check(labels)
        try:
            return cls(config, labels, account or NoAccount())
        except ValueError as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text with calls of its own. Raises TeacherError when the server cannot be used."""
        if texts:
            await self.prepare()
        return list(await asyncio.gather(*(self._ask(text, repeat) for text in texts)))

    @abstractmethod
    def _build(self) -> None:
        """Make what the questions need, from the configuration and the labels; called once, when `api` is there.

        Raises ValueError for labels that do not fit.
        """

    @abstractmethod
    async def prepare(self) -> None:
        """Check that the server can be used, before the first answer; `ask` does so by itself.

        Asks for the names of some labels; these calls are paid for and stored like any other. Raises TeacherError,
        which says what to do.
        """

    def _make_api(self, name: str, account: Account) -> Api:
        """Make calls to the server possible, under this name in messages."""
        headers = self.headers_for(self._config.key())
        return Api(self._config, account, name=name, headers=headers, usage=self.usage_of, transport=self._transport)

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

    @abstractmethod
    async def _ask(self, text: str, repeat: int) -> Answer:
        """Answer a text."""

    @staticmethod
    def headers_for(key: str) -> dict[str, str]:
        """The headers of every call with a key, which may be empty: by default, a bearer token if there is one."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    @staticmethod
    @abstractmethod
    def usage_of(response: Mapping[str, Any]) -> Usage | None:
        """The tokens that a response reports, if any."""
