"""The table of a rehearsal, as Markdown, so that it can stand in a document as it was printed."""

from __future__ import annotations

from tests.rehearsals.hosts.examine import Findings

COLUMNS = ("case", "requests", "answered", "in flight on a killed host", "sampled", "compared", "lost", "gap", "holds")


def heading() -> str:
    """Return the first two lines."""
    return f"{_line(COLUMNS)}\n{_line(('---',) * len(COLUMNS))}"


def row(name: str, found: Findings) -> str:
    """Return the line of a case; counts of samples and gaps are those since the version was deployed."""
    said, by_log, by_rules = ("-" if ratio is None else f"{ratio:.4f}" for ratio in found.gap)
    return _line(
        (
            name,
            str(found.requests),
            str(found.answered),
            str(found.excused),
            *(str(found.counts.get(name, 0)) for name in ("sampled", "compared")),
            str(found.lost),
            f"{said} / {by_log} / {by_rules}",
            "no" if found.wrong else "yes",
        )
    )


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
