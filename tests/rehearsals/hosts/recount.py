"""Counts anew, from the rows of the shadow log, what `GET /gap` says, and names each difference. Pure, but for no SQL.

The query is written here on its own: it shares nothing with the code that keeps the counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS = """
SELECT bundle, band, COALESCE(outcome, '') AS outcome, COUNT(*) AS rows,
  COUNT(CASE WHEN CAST(agree AS INTEGER) = 0 THEN 1 END) AS disagreed
FROM reflux.rows GROUP BY 1, 2, 3
"""

COMPLETED = "completed"
WITHOUT_ROW = ("queue_full", "store_error")
"""Outcomes of texts that were sampled and never stored."""


@dataclass
class Recount:
    """The rows of one bundle version in one band, or in all."""

    sampled: int = 0
    compared: int = 0
    disagreements: int = 0
    waiting: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: str, rows: int, disagreed: int) -> None:
        """Add rows with the same outcome; '' if they wait."""
        self.sampled += rows
        self.disagreements += disagreed
        if not outcome:
            self.waiting += rows
            return
        self.compared += rows if outcome == COMPLETED else 0
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + rows


def recount(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[int, Recount]]:
    """Return the counts by bundle version and band, from the result of ROWS."""
    found: dict[str, dict[int, Recount]] = {}
    for row in rows:
        band = found.setdefault(row["bundle"], {}).setdefault(int(row["band"]), Recount())
        band.add(row["outcome"], int(row["rows"]), int(row["disagreed"]))
    return found


def whole(bands: Mapping[int, Recount]) -> Recount:
    """Return the counts of all bands together."""
    total = Recount()
    for one in bands.values():
        total.sampled += one.sampled
        total.compared += one.compared
        total.disagreements += one.disagreements
        total.waiting += one.waiting
        for outcome, rows in one.outcomes.items():
            total.outcomes[outcome] = total.outcomes.get(outcome, 0) + rows
    return total


def gap_of(gap: Mapping[str, Any], bands: Mapping[int, Recount]) -> float | None:
    """Return the gap by the rows: the share of disagreements of each band, weighed by the band's requests in `gap`.

    None if a band with requests has no comparison: what stands in for it is the estimator's choice, not the log's.
    """
    requests = {number: band["requests"] for number, band in enumerate(gap["bands"]) if band["requests"]}
    counted = {number: bands.get(number, Recount()) for number in requests}
    if not requests or not all(band.compared for band in counted.values()):
        return None
    disagreeing = sum(requests[number] * band.disagreements / band.compared for number, band in counted.items())
    return float(disagreeing / sum(requests.values()))


def differences(gap: Mapping[str, Any], bands: Mapping[int, Recount]) -> list[str]:
    """Return, in words, where the body of `GET /gap` and the rows of its version differ."""
    total, found = whole(bands), []

    def compare(what: str, said: float, counted: float) -> None:
        if said != counted:
            found.append(f"/gap says {said} {what}, the log has {counted}")

    outcomes = {name: count for name, count in gap["outcomes"].items() if count}
    unstored = sum(outcomes.pop(name, 0) for name in WITHOUT_ROW)
    compare("sampled", gap["counts"]["sampled"] - unstored, total.sampled)
    compare("compared", gap["counts"]["compared"], total.compared)
    compare("disagreements", gap["counts"]["disagreements"], total.disagreements)
    for outcome in sorted({*outcomes, *total.outcomes}):
        compare(f"outcomes {outcome}", outcomes.get(outcome, 0), total.outcomes.get(outcome, 0))
    compare("waiting", gap["queue"]["waiting"] + gap["queue"]["in_flight"], total.waiting)
    for number, band in enumerate(gap["bands"]):
        counted = bands.get(number, Recount())
        compare(f"compared in band {number}", band["compared"], counted.compared)
        compare(f"disagreements in band {number}", band["disagreements"], counted.disagreements)
    return found


def unaccounted(gap: Mapping[str, Any]) -> int:
    """Return sampled texts that neither ended nor wait, by the body of `GET /gap`; only 0 keeps the promise."""
    waiting = gap["queue"]["waiting"] + gap["queue"]["in_flight"]
    return int(gap["counts"]["sampled"] - sum(gap["outcomes"].values()) - waiting)
