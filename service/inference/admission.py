"""Decide whether new texts would be answered in time, before any work is done for them.

It reads the queues, the cost of the runs so far and when the current runs began, and changes none of them. It belongs
on the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.inference.cost_model import whole_seconds
from service.inference.stage_runner import StageRunner
from service.inference.types import Refusal

_SAFETY_SPREADS = 4
"""Safety margin on predicted waits, in root mean square deviations of runs.

A queue that is shorter than necessary loses no answer; one that is too long loses all of them.
"""


class Admission:
    """Refuses texts that exceed `queue_limit` waiting texts or cannot be answered in time.

    `runners` are the stages of a bundle, each with the number of threads that share its runs; the last stage is run by
    all. `busy_since` has, for each thread that runs a graph, when its current run began; None while it is idle.
    """

    def __init__(
        self, runners: Sequence[tuple[StageRunner, int]], queue_limit: int, busy_since: Sequence[float | None]
    ) -> None:
        self.queue_limit = queue_limit
        self._runners = runners
        self._threads = runners[-1][1]
        self._busy_since = busy_since
        self.loop_busy_since: float | None = None
        """When the latest run on the event loop began, while another follows: new texts may have waited since then."""

    @property
    def waiting(self) -> int:
        """The number of texts that wait for a run of any stage."""
        count = 0
        for runner, _ in self._runners:
            count += len(runner.queue.items)
        return count

    @property
    def mean_tokens(self) -> int:
        """The tokens of a waiting text, on average; there must be one."""
        return sum(runner.queue.tokens for runner, _ in self._runners) // self.waiting

    def refusal(self, count: int, tokens: int, deadline: float, now: float) -> Refusal | None:
        """Return why `count` texts of `tokens` in total are not answered by `deadline`; None when they will be."""
        waiting = self.waiting
        seconds = self._predict(count, tokens)
        if self.loop_busy_since is not None:
            seconds += now - self.loop_busy_since
        if waiting + count > self.queue_limit:
            again = whole_seconds(seconds)
            message = f"{waiting} texts are waiting and {count} more exceed the limit of {self.queue_limit}"
        elif now + seconds > deadline:
            again = whole_seconds(now + seconds - deadline)
            left = max(0.0, deadline - now) * 1000
            message = f"an answer may take {seconds * 1000:.0f} ms, more than the {left:.0f} ms that are left"
        else:
            return None
        return Refusal(f"{message}; try again in {again} s", again)

    def _predict(self, count: float, tokens: float) -> float:
        """Predict the seconds until `count` more texts of `tokens` in total are answered, after all that wait.

        The usual share of the texts of each stage is expected to reach the next.
        """
        seconds = current = 0.0
        for runner, threads in self._runners:
            count += len(runner.queue.items)
            tokens += runner.queue.tokens
            cost, limits = runner.batch_cost, runner.limits
            runs = min(count, max(-(-count // limits.rows), -(-tokens // limits.tokens)))
            # A machine that is slow now is slow for the runs before this one too.
            margin = 1 + _SAFETY_SPREADS * cost.spread
            seconds += margin * cost.seconds(tokens / threads, runs / threads)
            current = max(current, margin * cost.seconds(min(limits.tokens, tokens), 1))
            count, tokens = count * runner.share_passed, tokens * runner.share_passed
        # The current runs, of whichever stage, may have just begun.
        return seconds if None in self._busy_since[: self._threads] else seconds + current
