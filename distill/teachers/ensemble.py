"""The teacher kind `ensemble`: the weighted mean of the answers of several teachers of any kind."""

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
from distill.teachers.api.identity import joined
from distill.teachers.base import Answer, AnswerOutcome, Teacher
from distill.teachers.errors import TeacherError

if TYPE_CHECKING:
    from distill.teachers.api.client import Api, ApiRequest
    from distill.teachers.batch.base import BatchApi

_ROUNDING = 1e-9  # tolerated in sums of weights


class MemberConfig(BaseModel):
    """A teacher and the weight of its answers."""

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
    """`quorum` is the share of the total weight that must answer a text with a label, else the answer is invalid."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["ensemble"] = "ensemble"
    name: str | None = None
    members: Annotated[tuple[MemberConfig, ...], Field(min_length=2)]
    quorum: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True, slots=True)
class Member:
    """A teacher, its share of the total weight, and a semaphore for its concurrency."""

    teacher: Teacher
    share: float
    semaphore: asyncio.Semaphore

    async def ask(self, texts: Sequence[str], repeat: int) -> list[Answer]:
        """Ask in batches of the teacher's batch size. An error is raised only after all of them have ended."""
        size = self.teacher.batch_size
        batches = [self._ask(texts[start : start + size], repeat) for start in range(0, len(texts), size)]
        return [answer for batch in await _all(batches) for answer in batch]

    async def _ask(self, texts: Sequence[str], repeat: int) -> Sequence[Answer]:
        async with self.semaphore:
            answers = await self.teacher.ask(texts, repeat)
        if len(answers) != len(texts):
            raise TeacherError(f"{self.teacher.name} gave {len(answers)} answers for {len(texts)} texts")
        return answers


class EnsembleTeacher:
    """Asks its members at the same time and averages their answers."""

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
        self.orders = math.lcm(*(getattr(teacher, "orders", 1) for teacher in members))
        self._quorum = config.quorum

    @classmethod
    def from_config(cls, config: EnsembleConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the members, which share the account. Raises TeacherError if one of them cannot be made."""
        return cls(config, labels, [teachers.create(member.teacher, labels, account) for member in config.members])

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text. Raises TeacherError if a member cannot answer at all."""
        answers = await _all([member.ask(texts, repeat) for member in self.members])
        return [self._mean(of_one) for of_one in zip(*answers, strict=True)]

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """The members' calls for a text that can be made now and are not paid for."""
        plans = [member.teacher.plan for member in self.members if hasattr(member.teacher, "plan")]
        return [call for calls in await _all([plan(text, repeat) for plan in plans]) for call in calls]

    @property
    def truncated(self) -> int:
        """How many texts were too long, summed over members."""
        return sum(getattr(member.teacher, "truncated", 0) for member in self.members)

    async def prepare(self) -> None:
        """Check that every member that makes calls can be used, before many are paid for. Raises TeacherError."""
        await _all([one.teacher.prepare() for one in self.members if hasattr(one.teacher, "prepare")])

    def batch_apis(self) -> Sequence[BatchApi]:
        """The batch APIs of the members."""
        return [api for one in self.members for api in getattr(one.teacher, "batch_apis", list)()]

    @property
    def held(self) -> float:
        """The longest time, in seconds, for which a member's calls are held because its server asked to wait."""
        return max(getattr(member.teacher, "held", 0.0) for member in self.members)

    def stop(self) -> None:
        """Start no further call of any member."""
        for member in self.members:
            getattr(member.teacher, "stop", lambda: None)()

    async def aclose(self) -> None:
        """Close every member."""
        await _all([member.teacher.aclose() for member in self.members])

    def _mean(self, answers: Sequence[Answer]) -> Answer:
        """The mean of the members' answers; invalid ones count as mass that is not covered."""
        total = np.zeros(len(self.labels))
        valid = covered = tail = 0.0
        for member, answer in zip(self.members, answers, strict=True):
            if answer.outcome == "ok" and answer.probabilities is not None:
                total += member.share * answer.probabilities
                valid += member.share
                covered += member.share * answer.covered
                tail += member.share * answer.tail
        outcome: AnswerOutcome = "ok"
        if valid + _ROUNDING < self._quorum or valid == 0:
            outcome = "refused" if any(answer.outcome == "refused" for answer in answers) else "invalid"
        return Answer(
            (total / total.sum()).astype(np.float32) if outcome == "ok" else None,
            "ensemble",
            covered=min(covered, 1.0),
            tail=min(tail, 1.0),
            tokens=sum(answer.tokens for answer in answers),
            cost_usd=sum(answer.cost_usd for answer in answers),
            seconds=max(answer.seconds for answer in answers),
            outcome=outcome,
            reason=next((answer.reason for answer in answers if answer.reason and outcome != "ok"), ""),
            doubtful=any(answer.doubtful for answer in answers),
            model=joined(answer.model for answer in answers),
            fingerprint=joined(answer.fingerprint for answer in answers),
        )


async def _all(awaitables: Sequence[Any]) -> list[Any]:
    """Await all results; an error is raised only after all have ended, so that paid responses are stored."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
