"""Compare two servers, loaded in turn over several rounds.

They are a static student and a constant, a cascade and its last stage, our server with shadowing and without, and
shadowing with a witness and without.

Both run on the same core, and the one that is not loaded is idle. Their order alternates, and each load is divided by
the loop just before and after it, so that a change of the machine's speed favours neither. The median round counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serving_tools.bounds import Bound, Part, ratio
from serving_tools.conditions import Conditions
from serving_tools.contenders import CONSTANT, REFLUX, Contender, Place, previous
from serving_tools.limit import Beside, Limit
from serving_tools.running import Running, running
from serving_tools.teacher import fake_teacher

TEACHER_SECONDS = 2.0
SAMPLED_SECONDS = 0.2
SAMPLED_RATE = 0.02
SHARE = 0.7
BACKLOG = 1_000_000  # more than is sent: texts dropped from a full queue would cost nothing

Loads = dict[str, Beside]
Step = Callable[[Loads], Mapping[str, Any]]
"""Makes the plan of a load from the first server's earlier loads of the round."""


def compare(
    first: Running, second: Running, conditions: Conditions, steps: Mapping[str, Step]
) -> list[tuple[Loads, Loads]]:
    """Send the same plans to both servers, and return their loads by round."""
    found = []
    limit = Limit(conditions)
    limit.measure()
    for number in range(conditions.rounds):
        pair: tuple[Loads, Loads] = ({}, {})
        order = ((first, pair[0]), (second, pair[1]))
        for name, step in steps.items():
            plan = {"seed": conditions.seed + number, **step(pair[0])}
            for one, loads in order if number % 2 == 0 else reversed(order):
                loads[name] = limit.beside(partial(one.load, **plan))
        found.append(pair)
        print(f"round {number + 1}: {_told(*pair)}", flush=True)
    limit.close()
    return found


def _told(first: Loads, second: Loads) -> str:
    """Format a round as a line of progress."""
    return ", ".join(
        f"{name} {a.load.throughput:,.0f}, {b.load.throughput:,.0f} req/s, of the loop's {a.share:.2f}, {b.share:.2f}, "
        f"p99 {a.load.latency.p99:.2f}, {b.load.latency.p99:.2f} ms"
        for (name, a), b in zip(first.items(), second.values(), strict=True)
    )


def static(conditions: Conditions) -> Part:
    """Compare a static student behind our server with FastAPI and a constant; `conditions` name the static bundle."""
    with running(REFLUX, conditions) as ours, running(CONSTANT, conditions) as constant:
        steps: dict[str, Step] = {"16 clients": lambda _: {"clients": 16}, "64 clients": lambda _: {"clients": 64}}
        pairs = compare(ours, constant, conditions, steps)
    bounds = [
        Bound(
            f"throughput of a static student at {name} / a constant's",
            median(ratio(our[name].share, its[name].share) for our, its in pairs),
            least=1.0,
        )
        for name in steps
    ]
    return Part({"ours and constant": pairs}, bounds)


def cascade(conditions: Conditions, folder: Path, least: float) -> Part:
    """Compare the cascade in `folder` with its last stage alone, the bundle of `conditions`; both by our server.

    `least` is how many times the throughput it must have at 64 clients.
    """
    clients = {"1 client": 1, "16 clients": 16, "64 clients": 64}
    steps: dict[str, Step] = {name: partial(_clients, count) for name, count in clients.items()}
    with (
        running(REFLUX, conditions) as alone,
        running(replace(REFLUX, key="cascade"), replace(conditions, bundle=folder.resolve())) as whole,
    ):
        pairs = compare(alone, whole, conditions, steps)
        answered = _by_stage(whole.get("/metrics").decode())
    print(f"answers by stage: {answered}")
    more = {name: median(ratio(ours[name].share, last[name].share) for last, ours in pairs) for name in steps}
    faster = median(ratio(ours["1 client"].p50, last["1 client"].p50) for last, ours in pairs)
    bounds = [
        Bound(
            f"throughput of a cascade at {name} / its last stage's", value, least=least if name == "64 clients" else 1
        )
        for name, value in more.items()
    ]
    bounds.append(Bound("p50 of a cascade at 1 client / its last stage's", faster, most=0.4))
    return Part({"last stage and cascade": pairs, "answers": answered}, bounds)


def _by_stage(page: str) -> dict[str, float]:
    """Return the answers of each stage from a page of metrics."""
    (family,) = (family for family in text_string_to_metric_families(page) if family.name == "reflux_cascade_answers")
    return {sample.labels["stage"]: sample.value for sample in family.samples}


def shadow(conditions: Conditions) -> Part:
    """Compare our server without shadowing, and with all traffic shadowed to a teacher that takes two seconds.

    p99 is compared at 64 clients, and with Poisson arrivals at 70 % of the round's capacity without shadowing.
    """
    steps: dict[str, Step] = {
        "64 clients": lambda _: {"clients": 64},
        "70 % load": lambda off: {"rate": SHARE * off["64 clients"].load.throughput},
    }
    with (
        fake_teacher(TEACHER_SECONDS, len(conditions.classes)) as url,
        running(REFLUX, conditions) as off,
        running(_shadowing(url), conditions) as on,
    ):
        pairs = compare(off, on, conditions, steps)
        gap = json.loads(on.get("/gap"))
    happened = {name: count for name, count in gap["outcomes"].items() if count}
    print(f"shadowed: {gap['counts']['sampled']:,}, outcomes {happened}, queue {gap['queue']}")
    kept = median(ratio(on["64 clients"].share, off["64 clients"].share) for off, on in pairs)
    bounds = [Bound("throughput with shadowing / without, at 64 clients", kept, least=0.97)]
    for name in steps:
        more = median(ratio(on[name].p99, off[name].p99) for off, on in pairs)
        bounds.append(Bound(f"p99 with shadowing / without, at {name}", more, most=1.1))
    return Part({"without and with shadowing": pairs, "gap": gap}, bounds)


def witness(conditions: Conditions, folder: Path) -> Part:
    """Compare our server, shadowing one text in fifty, with and without the witness in `folder`.

    All share one core. A thread of the witness's priority may take a tenth of it from requests.
    """
    steps: dict[str, Step] = {
        "64 clients": partial(_clients, 64),
        "30 % load": lambda off: {"rate": 0.3 * off["64 clients"].load.throughput},
    }
    with (
        fake_teacher(SAMPLED_SECONDS, len(conditions.classes)) as url,
        running(_shadowing(url, REFLUX, SAMPLED_RATE), conditions) as off,
        running(_shadowing(url, REFLUX, SAMPLED_RATE, folder.resolve()), conditions) as on,
    ):
        pairs = compare(off, on, conditions, steps)
        gap = json.loads(on.get("/gap"))
    print(f"witness: {gap['witness']}")
    kept = median(ratio(on["64 clients"].share, off["64 clients"].share) for off, on in pairs)
    bounds = [Bound("throughput with a witness / without, at 64 clients", kept, least=0.88)]
    more = median(on["30 % load"].load.latency.p50 - off["30 % load"].load.latency.p50 for off, on in pairs)
    bounds.append(Bound("p50 with a witness less without, at 30 % load, ms", more, most=0.5))
    return Part({"without and with a witness": pairs, "gap": gap}, bounds)


def shadow_versions(conditions: Conditions, checkout: Path) -> Part:
    """Compare our server with that of another checkout, both shadowing at the rate that is the default.

    The added milliseconds are those of the median answer at 1 client, over what each adds to a text in the loop.
    """
    steps: dict[str, Step] = {name: partial(_clients, count) for name, count in (("1 client", 1), ("64 clients", 64))}
    with (
        fake_teacher(SAMPLED_SECONDS, len(conditions.classes)) as url,
        running(_shadowing(url, previous(checkout), SAMPLED_RATE), conditions) as before,
        running(_shadowing(url, REFLUX, SAMPLED_RATE), conditions) as now,
    ):
        pairs = compare(before, now, conditions, steps)
    kept = median(ratio(now["64 clients"].share, before["64 clients"].share) for before, now in pairs)
    more = median(now["1 client"].added - before["1 client"].added for before, now in pairs)
    bounds = [
        Bound("throughput, shadowing, at 64 clients / the previous one's", kept, least=0.97),
        Bound("p50, shadowing, at 1 client less the previous one's, ms", more, most=0.02),
    ]
    return Part({"previous and now, shadowing": pairs}, bounds)


def _clients(count: int, _: Loads) -> Mapping[str, Any]:
    return {"clients": count}


def _shadowing(url: str, server: Contender = REFLUX, rate: float = 1.0, witness: Path | None = None) -> Contender:
    """Describe `server` with a share `rate` of its traffic shadowed to a teacher."""
    teacher = {"kind": "openai", "base_url": url, "model": "fake", "usd_per_million": {"input": 0.4, "output": 1.6}}

    def settings(place: Place) -> Mapping[str, str]:
        return {
            **server.settings(place),
            "REFLUX_SHADOW__ENABLED": "true",
            "REFLUX_SHADOW__RATE": str(rate),
            "REFLUX_SHADOW__PATH": str(place.work / "shadow.sqlite"),
            "REFLUX_SHADOW__BACKLOG_ROWS": str(BACKLOG),
            "REFLUX_SHADOW__TEACHER": json.dumps(teacher),
            # A short queue: a long one would still be read while the other server is loaded.
            **({} if witness is None else {"REFLUX_SHADOW__WITNESS": str(witness), "REFLUX_SHADOW__QUEUE_ROWS": "64"}),
        }

    return replace(server, key=f"{server.key}-shadow", title=f"{server.title}, shadowing", settings=settings)
