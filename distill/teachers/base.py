"""The protocol of teachers: they answer texts with distributions over labels.

It serves both labelling a pool and shadowing live traffic, so this file loads nothing heavy.
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

Method = Literal[
    "decisions", "logprobs", "logprobs_tail", "two_step", "votes", "verbalised", "local", "recorded", "ensemble"
]
"""How a distribution was obtained; stored with every soft label, since it determines how exact the numbers are."""

CONSTANT_METHODS = frozenset({"local", "recorded"})
"""Methods whose answer to a text never varies, so that asking twice tells nothing."""

AnswerOutcome = Literal["ok", "refused", "invalid"]
"""`refused`: the teacher declined to answer; `invalid`: no answer names a label. Neither gives a soft label."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one text.

    `probabilities` is float32 [K], in the order of the teacher's labels, and sums to 1; it is None unless `outcome` is
    `ok`. `covered` is the mass that the teacher put on labels and `tail` the mass that was not visible, both in [0, 1].
    `tokens`, `cost_usd` and `seconds` are what the answer took. `reason` holds the server's words for a rejected text;
    the rejection is `doubtful` if the server did not blame the text. `model` and `fingerprint` are what an API's
    responses state about the model and the backend that answered.
    """

    probabilities: npt.NDArray[np.float32] | None
    method: Method
    covered: float = 1.0
    tail: float = 0.0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    outcome: AnswerOutcome = "ok"
    reason: str = ""
    doubtful: bool = False
    model: str | None = None
    fingerprint: str | None = None


class Teacher(Protocol):
    """A source of soft labels. Its `name` and `version` together determine its answers.

    A teacher that lists the labels in several orders has the number of them as `orders`: a `repeat` that is a multiple
    of it asks the very same question again.
    """

    config_type: ClassVar[type[BaseModel]]

    @property
    def name(self) -> str:
        """The kind and the model, such as `local:all-MiniLM-L6-v2`."""

    @property
    def version(self) -> str:
        """A content hash or a vendor's model version; another version may give other answers."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K labels, in the order of every answer's probabilities."""

    @property
    def batch_size(self) -> int:
        """The best number of texts for one call of `ask`."""

    @property
    def concurrency(self) -> int:
        """How many calls of `ask` may run at once."""

    @classmethod
    def from_config(cls, config: Any, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make a teacher that answers in the order of `labels` and charges its API calls, if any, to `account`.

        Raises TeacherError if that is not possible.
        """

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text, in order. Another `repeat` is another draw from a teacher whose answers vary.

        Raises TeacherError if the teacher cannot answer at all.
        """

    async def aclose(self) -> None:
        """Close connections, sessions and threads."""


def label_order(has: Sequence[str], wants: Sequence[str], who: str) -> npt.NDArray[np.intp]:
    """Indices that reorder probabilities from the order `has` to the order `wants`.

    Raises TeacherError, which names the differences, unless both have the same labels.
    """
    if set(has) != set(wants) or len(has) != len(wants):
        missing, extra = sorted(set(wants) - set(has)), sorted(set(has) - set(wants))
        raise TeacherError(
            f"{who} does not know the task's labels: missing {missing[:5]}, unknown {extra[:5]}; "
            f"use a teacher made for these {len(wants)} labels"
        )
    position = {label: index for index, label in enumerate(has)}
    return np.array([position[label] for label in wants], dtype=np.intp)
