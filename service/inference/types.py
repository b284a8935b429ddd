"""What the dataplane, the scheduler and the graph pass to each other. Plain data and protocols, no decisions.

All times are of `time.monotonic()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from export.bundle.classifier import Encoded, Prediction

Done = Callable[[list[Prediction] | Exception], None]
"""Called once with the predictions for all texts of a submission, in order, or with the error. It does not raise."""

Withdraw = Callable[[], None]
"""Takes the waiting texts of a request off the queue; `Done` is not called. After the answer it does nothing."""

RecordStage = Callable[[str, float, float], None]
"""Records a stage of a request: its name (`queue` or `run`), begin and end."""

TextResult = Prediction | Exception
"""What became of one text."""


class Graph(Protocol):
    """A graph with its tokenizer; threads may share it. `export.bundle.classifier.Classifier` is one."""

    packed: bool
    """Whether padding costs nothing."""

    def encode(self, text: str, /) -> Encoded:
        """Tokenise a text."""

    def run(self, rows: Sequence[Encoded], /) -> list[Prediction]:
        """Answer texts in one run, or raise."""


class Refusal(NamedTuple):
    """Why a request is refused under overload, and the whole seconds after which to try again."""

    message: str
    retry_after: int


@dataclass(slots=True, eq=False)
class Submission:
    """The texts of one request, and the predictions for them so far, by index."""

    texts: Sequence[str]
    done: Done
    deadline: float
    submitted: float
    record_stage: RecordStage | None = None
    predictions: dict[int, Prediction] = field(default_factory=dict)
    settled: bool = False
    """Whether it was answered or withdrawn."""


@dataclass(slots=True, eq=False)
class Item:
    """One text of a submission, which waits for a stage since `since`. `tokens` are estimated until it is `encoded`."""

    submission: Submission
    index: int
    tokens: int
    since: float
    encoded: Encoded | None = None
    first: Prediction | None = None
    """The prediction of the first stage of a cascade; it may have passed the text on."""


class GraphRun(NamedTuple):
    """The items that shared one run of the graph, and its duration in seconds."""

    items: list[Item]
    seconds: float


@dataclass(slots=True, eq=False)
class BatchResult:
    """What became of the items that were taken off the queue of the stage at `place` at once."""

    place: int
    began: float
    results: list[tuple[Item, TextResult]] = field(default_factory=list)
    passed: list[tuple[Item, float]] = field(default_factory=list)
    """The items that the next stage answers, each with the time since when it waited for this one."""

    graph_runs: list[GraphRun] = field(default_factory=list)
    seconds: float = 0.0
    """From `began` to the end of the last run."""

    occupied: float = 0.0
    """The same plus the time since the previous batch, as far as texts were waiting then."""


def age(item: Item) -> float:
    """Return when the item's request was submitted: the queue is sorted by it."""
    return item.submission.submitted
