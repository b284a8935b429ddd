"""What runs the texts of one stage: its graph, the queue of those that wait for it, and what its runs cost so far.

A cascade has one for each of its stages, any other bundle has one alone. It tokenises and runs what it is given, and
separates the texts that it answers from those that the next stage shall answer. It knows neither threads nor the event
loop; the scheduler says when it runs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from heapq import merge
from operator import attrgetter

from export.bundle.cascade import at_stage
from export.bundle.classifier import Encoded, InferenceError, Prediction
from export.bundle.guard import is_panic
from service.errors import DeadlineError
from service.inference.batching import Limits, by_length, choose, tokens_of, window
from service.inference.cost_model import Cost
from service.inference.types import BatchResult, Graph, GraphRun, Item, Submission, TextResult, age

_REMEMBERED = 1000.0
"""The share of texts that are passed on is that of about as many of the latest texts."""

_encoded = attrgetter("encoded")

PutBack = Callable[["StageRunner", list[Item]], None]
"""Returns texts, which wait for another batch, to the queue of the runner."""


class Queue:
    """The texts that wait for a run, oldest first, and the sum of their tokens. Threads that share it hold a lock."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        """To read; only the methods change it."""

        self.tokens = 0
        """Of all items together, estimated for those that are not tokenised."""

    def add(self, items: Iterable[Item], tokens: int) -> None:
        """Append the items of a new submission, which have `tokens` in total."""
        self.items.extend(items)
        self.tokens += tokens

    def take(self, limits: Limits, slack: float, *, whole: bool = False) -> list[Item]:
        """Remove and return the oldest items, as many as are considered for a run; `slack` as in `batching.choose`.

        Of a packed graph's texts that is about half of the queue, or with `whole` all of it, if they fit.
        """
        if len(self.items) == 1 or limits.rows == 1:
            taken = [self.items.popleft()]
        else:
            least = len(self.items) if whole else self._half()
            count = min(window(self.items, limits, slack, least), len(self.items))
            taken = [self.items.popleft() for _ in range(count)]
        for item in taken:
            self.tokens -= item.tokens
        return taken

    def put_back(self, items: list[Item]) -> None:
        """Return items to their place: another thread may have put back older ones before."""
        if items and self.items and age(self.items[0]) < age(items[-1]):
            self.insert(items)
            return
        self.tokens += tokens_of(items)
        self.items.extendleft(reversed(items))

    def insert(self, items: list[Item]) -> None:
        """Add items, sorted by age, each in its place; they may be older than those that wait."""
        self.tokens += tokens_of(items)
        if items and self.items and age(items[0]) < age(self.items[-1]):
            items = [*merge(items, self.items, key=age)]
            self.items.clear()
        self.items.extend(items)

    def withdraw(self, submission: Submission) -> None:
        """Remove the items of a submission."""
        kept = [item for item in self.items if item.submission is not submission]
        self.items.clear()
        self.items.extend(kept)
        self.tokens = tokens_of(kept)

    def _half(self) -> int:
        """Return the size of half of the queue, extended to the end of a submission.

        Texts that share a run are answered together: in a run of the whole queue the oldest would wait for the newest.
        """
        items = self.items
        half = (len(items) + 1) // 2
        while half < len(items) and items[half].submission is items[half - 1].submission:
            half += 1
        return half


class StageRunner:
    """Runs the texts of the stage at `place`, each of at most `max_tokens` tokens, within `limits`.

    It answers a text on which its score reaches `cut_off`, and passes the others on; None answers every text. `keeps`
    says whether a text that arrives from the stage before has the token ids that this stage would make of it.
    `cost` is what runs are known to cost so far.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        limits: Limits,
        max_tokens: int,
        cost: Cost | None = None,
        place: int = 0,
        cut_off: float | None = None,
        keeps: Callable[[Encoded], bool] = lambda encoded: False,
    ) -> None:
        self.limits = limits
        self.max_tokens = max_tokens
        self.place = place
        self.queue = Queue()
        # Two fits: the time between two runs is spent per batch, however many runs of the graph that has.
        self.graph_cost = cost or Cost()
        self.batch_cost = copy(self.graph_cost)
        self._graph = graph
        self._cut_off = cut_off
        self._keeps = keeps
        self._judged, self._passed = 2.0, 1.0  # before the first text, half of them

    @property
    def share_passed(self) -> float:
        """The share of texts that it passes on, in [0, 1]."""
        return 0.0 if self._cut_off is None else self._passed / self._judged

    def due(self, now: float) -> bool:
        """Whether its texts should wait no longer for others to share their run.

        They have a full run, or the oldest has waited as long as the run itself takes: waiting longer could cost more
        than sharing saves.
        """
        queue, limits = self.queue, self.limits
        if queue.tokens >= limits.tokens or len(queue.items) >= limits.rows:
            return True
        return now - queue.items[0].since >= self.graph_cost.seconds(queue.tokens, 1)

    def take(self) -> list[Item]:
        """Take the oldest texts off the queue, as many as are considered for a run.

        In a later stage that is all that fit: they waited for each other.
        """
        return self.queue.take(self.limits, self.graph_cost.slack, whole=self.place > 0)

    def receive(self, items: list[Item], now: float) -> None:
        """Queue texts that another stage passed on, by the age of their requests."""
        for item in items:
            item.since = now
            if item.encoded is not None and not self._keeps(item.encoded):
                item.encoded, item.tokens = None, min(item.tokens, self.max_tokens)
        self.queue.insert(items)

    def run(self, items: list[Item], put_back: PutBack) -> BatchResult:
        """Tokenise `items`, run those that go together, and put the others back."""
        batch = BatchResult(self.place, time.monotonic())
        ready = self._encode(items, batch)
        for group in [ready] if len(ready) == 1 else self._group(ready, put_back):
            rows, started = [*map(_encoded, group)], time.monotonic()
            results: Sequence[TextResult]
            try:
                results = self._graph.run(rows)
            except BaseException as error:  # whatever it is, some of the rows cause it
                results = self._bisect(rows, _contained(error))
            batch.graph_runs.append(GraphRun(group, time.monotonic() - started))
            if self.place or self._cut_off is not None:
                self._separate(group, results, batch)
            else:
                batch.results += zip(group, results, strict=True)
        batch.seconds = time.monotonic() - batch.began
        return batch

    def learn(self, batch: BatchResult) -> list[int]:
        """Learn from a batch what the next will cost; return the tokens that each of its runs paid for."""
        tokens = [self.limits.paid(items) for items, _ in batch.graph_runs]
        for paid, (_, seconds) in zip(tokens, batch.graph_runs, strict=True):
            self.graph_cost.learn(paid, seconds)
        if tokens:
            self.batch_cost.learn(sum(tokens), batch.occupied)
        if self._cut_off is not None:
            self._judged += len(batch.results) + len(batch.passed)
            self._passed += len(batch.passed)
            if self._judged > _REMEMBERED:
                self._judged, self._passed = self._judged / 2, self._passed / 2
        return tokens

    def _encode(self, items: list[Item], batch: BatchResult) -> list[Item]:
        """Tokenise items and return those to run. Late ones, and those that cannot be tokenised, get their results."""
        ready, due = [], 0.0
        for item in items:
            submission = item.submission
            if submission.settled:
                continue
            if submission.deadline != math.inf:
                due = due or batch.began + self.graph_cost.seconds(min(tokens_of(items), self.limits.tokens), 1)
                if due > submission.deadline:
                    batch.results.append((item, DeadlineError("the deadline would pass before the answer is there")))
                    continue
            if item.encoded is None:
                try:
                    item.encoded = self._graph.encode(submission.texts[item.index])
                except BaseException as error:  # whatever it is, this text causes it
                    batch.results.append((item, _contained(error)))
                    continue
                item.tokens = len(item.encoded.ids)
            ready.append(item)
        return ready

    def _group(self, ready: list[Item], put_back: PutBack) -> list[list[Item]]:
        """Split tokenised items into runs of the graph, and put back those that wait for another batch."""
        if not ready:
            return []
        slack = self.graph_cost.slack
        chosen, others = choose(ready, self.limits, slack)
        if others:
            put_back(self, others)
        return by_length(chosen, slack) if self.limits.packed else [chosen]

    def _bisect(self, rows: Sequence[Encoded], failure: Exception) -> list[TextResult]:
        """Answer rows, whose run failed, by halves, so that only the texts that cause it fail."""
        if len(rows) == 1:
            return [failure]
        half = len(rows) // 2
        results: list[TextResult] = []
        for part in (rows[:half], rows[half:]):
            try:
                results += self._graph.run(part)
            except BaseException as error:
                results += self._bisect(part, _contained(error))
        return results

    def _separate(self, group: Sequence[Item], results: Sequence[TextResult], batch: BatchResult) -> None:
        """Give the texts of a run their results, but for those that the next stage answers."""
        cut_off = -math.inf if self._cut_off is None else self._cut_off
        for item, result in zip(group, results, strict=True):
            if isinstance(result, Prediction):
                item.first = item.first or result
                if result.score < cut_off:
                    batch.passed.append((item, item.since))
                    continue
                result = at_stage(result, self.place, item.first)
            batch.results.append((item, result))


def next_runner(runners: Sequence[StageRunner]) -> StageRunner | None:
    """Return which of the stages runs next, cheapest first; None if no text waits.

    The cheapest that has texts runs first, since those that it answers never reach the others, and what it passes on
    fills their runs. A later one takes precedence as soon as it is due: under any load, no text waits for company
    longer than its run takes. When nothing cheaper waits, it runs with what it has.
    """
    chosen = None
    for runner in reversed(runners):
        if runner.queue.items:
            if runner.place and runner.due(time.monotonic()):
                return runner
            chosen = runner
    return chosen


def _contained(error: BaseException) -> Exception:
    """Return the error that texts fail with, for a panic of a library one of ours. Raises what must end the thread."""
    if isinstance(error, Exception):
        return error
    if is_panic(error):
        return InferenceError("a library panicked")
    raise error
