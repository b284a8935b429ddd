"""Rehearse every alert: `make rehearse-alerts`.

Real services misbehave, each in its way, and a real Prometheus with the real rules has to tell of each, after its
`for`, and of nothing else. All durations of the rules are a sixtieth of what they are, so that an hour takes a minute.
Prometheus is needed (Debian: `apt-get install prometheus`). Exits with 1 unless every alert fires, and no other does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.hurried_rules import hastened
from tests.support.misbehaving import Case, build_cases, firing, fleet
from tests.support.prometheus import PROMETHEUS, prometheus

FACTOR = 60.0
PATIENCE = 180.0
"""Seconds within which all should fire: the longest `for` is an hour, which takes a minute."""

ABSENT = ("RefluxAbsent", "")

Fired = dict[tuple[str, str], float]
"""The seconds after which each alert fired, by its name and model version."""


async def rehearse(folder: Path) -> tuple[Sequence[Case], Fired]:
    """Return the cases, and what fired."""
    cases = build_cases(folder)
    expected = set[tuple[str, str]]().union(*(case.expected for case in cases))
    fired: Fired = {}
    async with (
        fleet(cases) as services,
        prometheus(folder, *services.ports, rules=hastened(folder, FACTOR)) as server,
    ):

        async def follow(wanted: set[tuple[str, str]]) -> None:
            """Note what fires, until all that is wanted has."""
            started = time.monotonic()
            while (seconds := time.monotonic() - started) < PATIENCE and not wanted <= fired.keys():
                for alert in await firing(server):
                    fired.setdefault(alert, seconds)
                await asyncio.sleep(0.5)

        services.misbehave()
        await follow(expected)
        await services.calm_down()
        services.end()
        await follow({ABSENT})
    return cases, fired


def table(cases: Sequence[Case], fired: Fired) -> tuple[list[str], bool]:
    """Return the lines of a table, and whether all is as it should be."""
    rows = [(alert, case.version, case.how) for case in cases for alert in sorted(case.alerts)]
    rows.append((*ABSENT, "all services end"))
    lines, good = [f"{'alert':24} {'fires after':>12}  of a service where"], True
    for alert, version, how in rows:
        seconds = fired.pop((alert, version), None)
        good &= seconds is not None
        lines.append(f"{alert:24} {f'{seconds:.0f} s' if seconds is not None else 'NEVER':>12}  {how}")
    names = {case.version: case.how for case in cases}
    for (alert, version), seconds in fired.items():
        good = False
        lines.append(f"{alert:24} {f'{seconds:.0f} s':>12}  {names.get(version, 'no version')}: SHOULD NOT FIRE")
    return lines, good


def main() -> int:
    """Print the table; return the exit code."""
    if PROMETHEUS is None:
        print("there is no Prometheus (Debian: apt-get install prometheus)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        cases, fired = asyncio.run(rehearse(Path(folder)))
    lines, good = table(cases, fired)
    print("\n".join(lines))
    print(f"Durations of the rules are 1/{FACTOR:.0f} of what they are: a second here is a minute.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
