"""What a teacher is: something that answers texts with distributions over the labels.

The same protocol serves labelling a pool and shadowing live traffic, so this file loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from distill.teachers.account import Account
from distill.teachers.errors import TeacherError

Method = Literal["logprobs", "logprobs_tail", "two_step", "votes", "verbalised", "local", "recorded", "ensemble"]
"""How a distribution was obtained; kept with every soft label, since it says what the numbers are worth."""

Outcome = Literal["ok", "refused", "invalid"]
"""`refused`: the teacher declined to answer; `invalid`: no answer names a label. Neither becomes a label."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One text's answer.

    `probabilities` is float32 [K], in the order of the labels the teacher was made for, and sums to 1; it is None
    unless `outcome` is `ok`. `covered` is the mass the teacher itself put on labels and `tail` the mass that could
    not be seen, both in [0, 1]. `tokens` counts what was read, `cost_usd` what was paid, `seconds` what it took.
    """

    probabilities: npt.NDArray[np.float32] | None
    method: Method
    covered: float = 1.0
    tail: float = 0.0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    outcome: Outcome = "ok"
    said: str = ""
    doubtful: bool = False


class Teacher(Protocol):
    """A source of soft labels. `name` and `version` together determine its answers."""

    config_type: ClassVar[type[BaseModel]]

    @property
    def name(self) -> str:
        """Kind and model, for people, such as `local:all-MiniLM-L6-v2`."""

    @property
    def version(self) -> str:
        """A content hash or a vendor's model version: another version may answer otherwise."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K labels, in the order of every answer's probabilities."""

    @property
    def batch_size(self) -> int:
        """How many texts one call to `ask` takes best."""

    @property
    def concurrency(self) -> int:
        """How many calls to `ask` may run at once."""

    @classmethod
    def from_config(cls, config: Any, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make a teacher that answers in the order of `labels` and charges its calls, if it makes any, to `account`.

        Raises TeacherError when it cannot.
        """

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text, in order. Another `repeat` is another draw, of a teacher that does not always say the same.

        Raises TeacherError when the teacher as a whole cannot answer.
        """

    async def aclose(self) -> None:
        """Let go of connections, sessions and threads."""


def label_order(has: Sequence[str], wants: Sequence[str], who: str) -> npt.NDArray[np.intp]:
    """Indices that bring probabilities in the order `has` into the order `wants`.

    Raises TeacherError unless both name the same labels, naming those that differ.
    """
    if set(has) != set(wants) or len(has) != len(wants):
        missing, extra = sorted(set(wants) - set(has)), sorted(set(has) - set(wants))
        raise TeacherError(
            f"{who} does not know the task's labels: missing {missing[:5]}, unknown {extra[:5]}; "
            f"use a teacher made for these {len(wants)} labels"
        )
    position = {label: index for index, label in enumerate(has)}
    return np.array([position[label] for label in wants], dtype=np.intp)
