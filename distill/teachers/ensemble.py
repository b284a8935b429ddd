"""The teacher kind `ensemble`: the weighted mean of what several teachers say, each of any kind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator

from distill import teachers
from distill.stages import fingerprint
from distill.teachers.account import Account
from distill.teachers.base import Answer, Outcome, Teacher
from distill.teachers.errors import TeacherError

if TYPE_CHECKING:
    from distill.teachers.api.client import Api, Request
    from distill.teachers.batch.base import BatchApi

_ROUNDING = 1e-9  # of weights that are added up


class MemberConfig(BaseModel):
    """One teacher, and how much its word counts beside the others'."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    teacher: SerializeAsAny[BaseModel]
    weight: float = Field(default=1.0, gt=0)

    @field_validator("teacher", mode="before")
    @classmethod
    def _typed_teacher(cls, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("expected a mapping with a `kind`")
        try:
            return teachers.parse(value)
        except TeacherError as error:
            raise ValueError(str(error)) from error

    @field_validator("teacher")
    @classmethod
    def _needs_no_fitting(cls, value: BaseModel) -> BaseModel:
        if getattr(value, "fit", None) is not None:
            raise ValueError(
                "a member of an ensemble is not fitted: fit it with a task of its own, and give the folder `teacher` "
                "of that run as its `model`, without `fit`"
            )
        return value


class EnsembleConfig(BaseModel):
    """`quorum` is the share of all weight that must have answered a text with a label for the answer to be one."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["ensemble"] = "ensemble"
    name: str | None = None
    members: Annotated[tuple[MemberConfig, ...], Field(min_length=2)]
    quorum: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True, slots=True)
class Member:
    """A teacher, its share of all weight, and the gate that lets so many calls through at once as it takes."""

    teacher: Teacher
    share: float
    gate: asyncio.Semaphore

    async def ask(self, texts: Sequence[str], repeat: int) -> list[Answer]:
        """Its answers, in batches of the size that it takes best. All are waited for before an error is raised."""
        size = self.teacher.batch_size
        batches = [self._ask(texts[start : start + size], repeat) for start in range(0, len(texts), size)]
        return [answer for batch in await _all(batches) for answer in batch]

    async def _ask(self, texts: Sequence[str], repeat: int) -> Sequence[Answer]:
        async with self.gate:
            answers = await self.teacher.ask(texts, repeat)
        if len(answers) != len(texts):
            raise TeacherError(f"{self.teacher.name} gave {len(answers)} answers for {len(texts)} texts")
        return answers


class EnsembleTeacher:
    """Asks its members at the same time, and takes the mean of what they say."""

    config_type: ClassVar[type[BaseModel]] = EnsembleConfig

    def __init__(self, config: EnsembleConfig, labels: Sequence[str], members: Sequence[Teacher]) -> None:
        total = sum(member.weight for member in config.members)
        self.labels = tuple(labels)
        self.members = [
            Member(teacher, member.weight / total, asyncio.Semaphore(teacher.concurrency))
            for teacher, member in zip(members, config.members, strict=True)
        ]
        self.name = f"ensemble:{config.name or '+'.join(teacher.name for teacher in members)}"
        self.version = fingerprint(
            [config.quorum, [[one.teacher.name, one.teacher.version, one.share] for one in self.members]]
        )
        self.batch_size = max(teacher.batch_size for teacher in members)
        in_flight = max(teacher.batch_size * teacher.concurrency for teacher in members)
        self.concurrency = math.ceil(in_flight / self.batch_size)
        self._quorum = config.quorum

    @classmethod
    def from_config(cls, config: EnsembleConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the members, which share the account. Raises TeacherError when one of them cannot be had."""
        return cls(config, labels, [teachers.create(member.teacher, labels, account) for member in config.members])

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text. Raises TeacherError when a member as a whole cannot answer."""
        answers = await _all([member.ask(texts, repeat) for member in self.members])
        return [self._mean(of_one) for of_one in zip(*answers, strict=True)]

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The members' calls for a text that can be made now and were not paid for before."""
        plans = [member.teacher.plan for member in self.members if hasattr(member.teacher, "plan")]
        return [call for calls in await _all([plan(text, repeat) for plan in plans]) for call in calls]

    @property
    def truncated(self) -> int:
        """How many texts were too long for a member, over all members."""
        return sum(getattr(member.teacher, "truncated", 0) for member in self.members)

    async def prepare(self) -> None:
        """See that every member that makes calls can be used, before many are paid for. Raises TeacherError."""
        await _all([one.teacher.prepare() for one in self.members if hasattr(one.teacher, "prepare")])

    def batch_apis(self) -> Sequence[BatchApi]:
        """The batch APIs of the members."""
        return [api for one in self.members for api in getattr(one.teacher, "batch_apis", list)()]

    @property
    def held(self) -> float:
        """For how many seconds a member is held at most, because its server asked to be left alone."""
        return max(getattr(member.teacher, "held", 0.0) for member in self.members)

    def stop(self) -> None:
        """Have the members that make calls make no further one."""
        for member in self.members:
            getattr(member.teacher, "stop", lambda: None)()

    async def aclose(self) -> None:
        """Close every member."""
        await _all([member.teacher.aclose() for member in self.members])

    def _mean(self, answers: Sequence[Answer]) -> Answer:
        """What the members say together; those that gave no label count as mass that is not covered."""
        agreed = np.zeros(len(self.labels))
        heard = covered = tail = 0.0
        for member, answer in zip(self.members, answers, strict=True):
            if answer.outcome == "ok" and answer.probabilities is not None:
                agreed += member.share * answer.probabilities
                heard += member.share
                covered += member.share * answer.covered
                tail += member.share * answer.tail
        outcome: Outcome = "ok"
        if heard + _ROUNDING < self._quorum or heard == 0:
            outcome = "refused" if any(answer.outcome == "refused" for answer in answers) else "invalid"
        return Answer(
            (agreed / agreed.sum()).astype(np.float32) if outcome == "ok" else None,
            "ensemble",
            covered=min(covered, 1.0),
            tail=min(tail, 1.0),
            tokens=sum(answer.tokens for answer in answers),
            cost_usd=sum(answer.cost_usd for answer in answers),
            seconds=max(answer.seconds for answer in answers),
            outcome=outcome,
            said=next((answer.said for answer in answers if answer.said and outcome != "ok"), ""),
            doubtful=any(answer.doubtful for answer in answers),
        )


async def _all(work: Sequence[Any]) -> list[Any]:
    """What all of it gives, once all is done; a failure is raised only then, so that what was paid for is kept."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
