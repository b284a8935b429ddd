"""Simulate how batching changes latencies: texts arrive at random at one core and are queued as in the service.

    python benchmarks/batching.py --eight 0.65,0.75,0.9,1

`--eight` is the cost of one run of eight texts, relative to eight runs of one. For each value, and for a core that runs
every text alone, it prints the capacity relative to that core, and p50 / p99 at 50, 70 and 90 % of the capacity,
relative to the mean time of a text at full capacity. No server is started and no graph is run.
"""

from __future__ import annotations

import argparse
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from service.inference.batching import ALONE, Limits, tokens_of
from service.inference.stage_runner import Queue
from service.inference.types import Item, Submission, age

_SHARES = (0.5, 0.7, 0.9)
_TEXTS = 60_000
_TOKENS = 15.0
_SPREAD = 0.35
"""Standard deviation of the tokens per text, relative to their mean."""

_ROWS = 8


@dataclass(frozen=True, slots=True)
class Core:
    """The cost model: a run costs `beside` plus `per_token` per token, relative to a run of one text of mean length."""

    beside: float
    per_token: float

    @classmethod
    def of(cls, eight: float) -> Core:
        """Return the core on which a run of eight costs `eight`, relative to eight runs of one."""
        beside = (1 - eight) * _ROWS / (_ROWS - 1)
        return cls(beside, (1 - beside) / _TOKENS)

    def seconds(self, rows: int) -> float:
        """Return the cost per text of a run of `rows` texts of mean length."""
        return self.beside / rows + self.per_token * _TOKENS


def text(came: float, tokens: int) -> Item:
    """Return a request of one text that arrives at time `came`."""
    return Item(Submission(("",), lambda _: None, math.inf, came), 0, tokens)


def latencies(core: Core, limits: Limits, rate: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Simulate, and return for each text the time from its arrival to the end of its run."""
    random = np.random.default_rng(seed)
    shape = _SPREAD**-2
    tokens = np.maximum(1, random.gamma(shape, _TOKENS / shape, _TEXTS).round()).astype(int).tolist()
    coming = deque(map(text, np.cumsum(random.exponential(1 / rate, _TEXTS)).tolist(), tokens))
    queue = Queue()
    now, waits = 0.0, []
    while coming or queue.items:
        if not queue.items:
            now = max(now, age(coming[0]))
        while coming and age(coming[0]) <= now:
            item = coming.popleft()
            queue.add([item], item.tokens)
        batch = queue.take(limits, core.beside / core.per_token)
        now += core.beside + core.per_token * tokens_of(batch)
        waits += [now - age(item) for item in batch]
    return np.array(waits)


def line(name: str, core: Core, limits: Limits) -> str:
    """Return a row of the table."""
    each = core.seconds(limits.rows)
    found = [np.quantile(latencies(core, limits, share / each, 0) / each, (0.5, 0.99)) for share in _SHARES]
    cells = [name, f"{1 / each:.2f}", *(f"{p50:.1f} / {p99:.1f}" for p50, p99 in found)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eight", default="0.65,0.75,0.9,1", help="cost of a run of eight (default %(default)s)")
    given = parser.parse_args()
    print(f"| run of eight | capacity | {' | '.join(f'p50 / p99 at {share:.0%}' for share in _SHARES)} |")
    print("|---|---|---|---|---|")
    for eight in map(float, given.eight.split(",")):
        core = Core.of(eight)
        print(line(f"{eight:g}", core, Limits(int(_ROWS * _TOKENS), _ROWS, packed=True)))
    print(line("alone", Core.of(1.0), ALONE))


if __name__ == "__main__":
    main()
