"""Compares, after each case, the requests, `GET /gap`, the rows of the log, and Prometheus' rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.rehearsals.hosts.cluster import WORKER, Cluster
from tests.rehearsals.hosts.errors import RehearsalError
from tests.rehearsals.hosts.load import Answered
from tests.rehearsals.hosts.processes import PATIENCE
from tests.rehearsals.hosts.prometheus import COUNTS, DISAGREED, MISSING, RATIO, SCRAPE_SECONDS
from tests.rehearsals.hosts.recount import ROWS, Recount, differences, gap_of, recount, unaccounted, whole
from tests.rehearsals.hosts.tolerance import Excuses, Span, answered, since, within

RATIO_TOLERANCE = 0.005
"""Largest difference of the gap by GET /gap from those by the log and by Prometheus: losses weigh otherwise there."""

COMPARED_WITHIN = """
SELECT bundle, COUNT(*) AS rows FROM reflux.rows
WHERE outcome = 'completed' AND answered BETWEEN {begin} AND {end} GROUP BY 1
"""


@dataclass
class Findings:
    """What was found after a case; `wrong` names every difference that nothing excuses.

    `gap` is the live gap of the version that serves now: by `GET /gap`, by the log, and by Prometheus.
    """

    requests: int = 0
    answered: int = 0
    excused: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    gap: tuple[float | None, float | None, float | None] = (None, None, None)
    wrong: list[str] = field(default_factory=list)


async def examine(
    cluster: Cluster, latest: Sequence[Answered], every: Sequence[Answered], excuses: Excuses
) -> Findings:
    """Return the findings after a case with the `latest` requests, after `every` request of this rehearsal.

    What is counted a moment later, as all processes do, is waited for: what differs still after a minute is wrong.
    """
    deadline = time.monotonic() + PATIENCE
    while (found := await _once(cluster, every, excuses)).wrong and time.monotonic() < deadline:
        await asyncio.sleep(1.0)
    excused, lost = excuses.lost(latest)
    found.requests, found.excused = len(latest), len(excused)
    found.answered = len(latest) - len(excused) - len(lost)
    found.wrong += [f"{len(lost)} requests lost, such as {lost[0]}"] if lost else []
    return found


async def _once(cluster: Cluster, every: Sequence[Answered], excuses: Excuses) -> Findings:
    found = Findings()
    try:
        gaps = [(process, await process.gap()) for process in cluster.processes]
        counted = recount(await cluster.database.query(ROWS))
        recorded = {
            name: await cluster.prometheus.by_version(f'{rule}{{window="1h"}}') for name, rule in COUNTS.items()
        }
        recorded["disagreements"] = await cluster.prometheus.by_version(DISAGREED)
        ratios = await cluster.prometheus.by_version(RATIO)
        lacking = await cluster.prometheus.by_version(MISSING)
        unseen = await _unseen(cluster, every, excuses)
    except (httpx.HTTPError, RehearsalError) as error:
        return Findings(wrong=[f"cannot be counted: {error!r}"])
    for process, gap in gaps:
        version, name = gap["model_version"], process.target
        bands = counted.get(version, {})
        found.wrong += [f"{name}: {difference}" for difference in differences(gap, bands)]
        found.wrong += [f"{name}: {number} sampled texts are nowhere" for number in [unaccounted(gap)] if number]
        found.wrong += [f"{name}: {problem}" for problem in _requests(gap, every, excuses)]
        found.wrong += _prometheus(gap, recorded, unseen, SCRAPE_SECONDS / (time.time() - since(every, version)))
    for version, bands in counted.items():
        if waiting := whole(bands).waiting:
            found.wrong.append(f"{waiting} rows of {version} wait")
    found.wrong += [
        f"Prometheus misses {number:g} samples of {version}" for version, number in lacking.items() if number
    ]
    if gaps:
        _summarise(found, gaps[0][1], counted, ratios)
    return found


def _requests(gap: Mapping[str, Any], every: Sequence[Answered], excuses: Excuses) -> list[str]:
    """Return how the requests of /gap differ from those that clients got an answer to.

    Of a killed host, some may have been counted and not answered, others answered and their count not stored.
    """
    version, said = gap["model_version"], gap["counts"]["requests"]
    known = answered(every)[version]
    least = known - within(excuses.unstored(every), every)[version]
    most = known + len(excuses.lost(every)[0])
    return [] if least <= said <= most else [f"/gap says {said} requests, clients had {known} answers"]


def _prometheus(
    gap: Mapping[str, Any],
    recorded: Mapping[str, Mapping[str, float]],
    unseen: Mapping[str, Mapping[str, int]],
    extrapolated: float,
) -> list[str]:
    """Return how the recording rules differ from /gap by more than was not scraped, and than they extrapolate."""
    version, wrong = gap["model_version"], []
    for name, values in recorded.items():
        said, seen = gap["counts"][name], values.get(version, 0.0)
        least = (said - unseen[name].get(version, 0)) * (1 - extrapolated)
        if not least - 0.5 <= seen <= said * (1 + 2 * extrapolated) + 0.5:
            wrong.append(f"Prometheus has {seen:.1f} {name} of {version}, /gap says {said}")
    return wrong


async def _unseen(cluster: Cluster, every: Sequence[Answered], excuses: Excuses) -> dict[str, dict[str, int]]:
    """Return how many of each count, by version, Prometheus may not have seen."""
    addresses = {address: host for host, address in cluster.network.addresses.items()}
    scrapes = {addresses[address]: times for address, times in (await cluster.prometheus.scrapes()).items()}
    spans = excuses.unscraped(scrapes)
    requests = dict(within(spans, every))
    compared: dict[str, int] = {}
    for span in spans:
        if span.host == WORKER:
            for version, rows in (await _compared_within(cluster, span)).items():
                compared[version] = compared.get(version, 0) + rows
    return {"requests": requests, "sampled": requests, "compared": compared, "disagreements": compared}


async def _compared_within(cluster: Cluster, span: Span) -> dict[str, int]:
    rows = await cluster.database.query(COMPARED_WITHIN.format(begin=span.begin, end=min(span.end, time.time())))
    return {row["bundle"]: int(row["rows"]) for row in rows}


def _summarise(
    found: Findings,
    gap: Mapping[str, Any],
    counted: Mapping[str, Mapping[int, Recount]],
    ratios: Mapping[str, float],
) -> None:
    version = gap["model_version"]
    bands = counted.get(version, {})
    found.counts = {name: int(count) for name, count in gap["counts"].items()}
    found.lost = whole(bands).sampled - whole(bands).compared - whole(bands).waiting
    found.gap = (gap["gap"]["ratio"], gap_of(gap, bands), ratios.get(version))
    said, by_log, by_rules = found.gap
    for other, source in ((by_log, "the log"), (by_rules, "Prometheus")):
        if said is not None and other is not None and abs(said - other) > RATIO_TOLERANCE:
            found.wrong.append(f"/gap says a gap of {said:.4f}, {source} {other:.4f}")
