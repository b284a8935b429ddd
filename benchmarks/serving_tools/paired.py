"""Two set-ups of a server in turn, several rounds: what a static student, or shadowing, is compared by.

The order alternates, so that a machine that grows slower or faster is on neither's side; the median round counts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from serving_tools.contenders import CONSTANT, REFLUX
from serving_tools.measure import Conditions, Running, running
from serving_tools.plan import Load
from serving_tools.report import Bound, Part, ratio
from serving_tools.teacher import fake_teacher

TEACHER_SECONDS = 2.0

Start = Callable[[], AbstractContextManager[Running]]
Loads = dict[str, Load]


def rounds(first: Start, second: Start, count: int, measure: Callable[[Running], Loads]) -> list[tuple[Loads, Loads]]:
    """The loads of the first and of the second set-up, round by round."""
    found = []
    for number in range(count):
        pair: dict[Start, Loads] = {}
        for start in (first, second) if number % 2 == 0 else (second, first):
            with start() as one:
                pair[start] = measure(one)
        found.append((pair[first], pair[second]))
        told = ", ".join(
            f"{name} {a.throughput:,.0f}, {b.throughput:,.0f} req/s, p99 {a.latency.p99:.2f}, {b.latency.p99:.2f} ms"
            for (name, a), b in zip(pair[first].items(), pair[second].values(), strict=True)
        )
        print(f"round {number + 1}: {told}", flush=True)
    return found


def static(conditions: Conditions, count: int) -> Part:
    """A static student behind our server, and FastAPI with a constant; `conditions` have the static bundle."""
    pairs = rounds(
        lambda: running(REFLUX, conditions),
        lambda: running(CONSTANT, conditions),
        count,
        lambda one: {f"{clients} clients": one.load(clients=clients) for clients in (16, 64)},
    )
    bounds = [
        Bound(
            f"throughput of a static student at {name} / a constant's",
            median(ratio(ours[name].throughput, constant[name].throughput) for ours, constant in pairs),
            least=1.0,
        )
        for name in pairs[0][0]
    ]
    return Part({"ours and constant": pairs}, bounds)


def shadow(conditions: Conditions, count: int) -> Part:
    """Our server without shadowing, and with all traffic shadowed to a teacher that takes two seconds.

    p99 is compared at 64 clients and with Poisson arrivals at 70 % of what the first round without shadowing allows.
    """
    rate: list[float] = []
    gaps: list[Any] = []

    def measure(one: Running) -> Loads:
        closed = one.load(clients=64)
        rate[:] = rate or [0.7 * closed.throughput]
        opened = one.load(rate=rate[0])
        if one.settings:
            gaps.append(json.loads(one.get("/gap")))
            happened = {name: count for name, count in gaps[-1]["outcomes"].items() if count}
            print(f"shadowed: {gaps[-1]['counts']['sampled']:,}, outcomes {happened}, queue {gaps[-1]['queue']}")
        return {"64 clients": closed, "70 % load": opened}

    with fake_teacher(TEACHER_SECONDS, len(conditions.classes)) as url, tempfile.TemporaryDirectory() as folder:
        paths = (Path(folder) / f"{number}.sqlite" for number in range(count))
        pairs = rounds(
            lambda: running(REFLUX, conditions),
            lambda: running(REFLUX, conditions, _shadowing(url, next(paths))),
            count,
            measure,
        )
    kept = median(ratio(on["64 clients"].throughput, off["64 clients"].throughput) for off, on in pairs)
    bounds = [Bound("throughput with shadowing / without, at 64 clients", kept, least=0.97)]
    for name in pairs[0][0]:
        more = median(ratio(on[name].latency.p99, off[name].latency.p99) for off, on in pairs)
        bounds.append(Bound(f"p99 with shadowing / without, at {name}", more, most=1.1))
    return Part({"without and with shadowing": pairs, "gaps": gaps}, bounds)


def _shadowing(url: str, path: Path) -> Mapping[str, str]:
    teacher = {"kind": "openai", "base_url": url, "model": "fake", "usd_per_million": {"input": 0.4, "output": 1.6}}
    return {
        "REFLUX_SHADOW__ENABLED": "true",
        "REFLUX_SHADOW__RATE": "1.0",
        "REFLUX_SHADOW__PATH": str(path),
        "REFLUX_SHADOW__TEACHER": json.dumps(teacher),
    }
