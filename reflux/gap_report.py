"""`reflux gap-report`: a week of a service's gap, as Markdown for people and JSON for programs.

It reads `GET /gap`, `/gap/history` and `/gap/disagreements`, and judges nothing itself. Texts are only in the JSON,
because the Markdown goes to logs that more people read than may read what customers write.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reflux.status import NoAnswerError, Status, ask, parse

HISTORY = "7d"
_PAIRS = 10


@dataclass(frozen=True)
class GapReport:
    """The bodies of the three routes. `disagreements` is null where the service has none, and `missing` says why."""

    status: Status
    gap: dict[str, Any]
    history: dict[str, Any]
    disagreements: dict[str, Any] | None
    missing: str | None
    time: datetime

    @classmethod
    def fetch(cls, url: str, key: str | None, *, variant: str = "stable") -> GapReport:
        """Ask the service at `url`. Raises NoAnswerError; without the disagreements the report is made all the same."""
        gap = ask(url, key, window="since", variant=variant)
        history = ask(url, key, window=HISTORY, variant=variant, route="/history")
        disagreements, missing = None, None
        try:
            disagreements = ask(url, key, window="since", variant=variant, route="/disagreements")
        except NoAnswerError as error:
            missing = str(error)
        return cls(parse(gap), gap, history, disagreements, missing, datetime.now(UTC))

    def markdown(self) -> str:
        """Return the report for people, without a text of a request."""
        status = self.status
        lines = [
            f"# {status.verdict.upper()}: {status.model_version}, {self.time:%Y-%m-%d %H:%M} UTC",
            "",
            status.message,
            *(f"- {reason}" for reason in status.blind),
            "",
            "| window | gap | 95 % interval | expected | requests | compared | lost |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *(f"| {name} | {' | '.join(window.cells())} |" for name, window in status.windows.items()),
            "",
            *([] if status.deferred is None else [str(status.deferred), ""]),
            "| day (UTC) | requests | compared | gap, by comparisons |",
            "|---|--:|--:|--:|",
            *self._days(),
            "",
            *self._disagreements(),
        ]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Return all that the service answered, texts included."""
        body = {
            "time": self.time.isoformat(timespec="seconds"),
            "gap": self.gap,
            "history": self.history,
            "disagreements": self.disagreements,
        }
        return json.dumps(body, ensure_ascii=False, indent=2) + "\n"

    def write(self, folder: Path) -> Path:
        """Write `gap-DATE.md` and `gap-DATE.json` into `folder`, and return the former.

        The JSON can be read by its owner alone. Raises NoAnswerError: the folder cannot be written.
        """
        path = folder / f"gap-{self.time:%Y-%m-%d}.md"
        data = path.with_suffix(".json")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(self.markdown(), encoding="utf-8")
            data.touch(mode=0o600)
            data.write_text(self.json(), encoding="utf-8")
        except OSError as error:
            raise NoAnswerError(f"--output {folder}: {error}; give a folder that can be written") from error
        return path

    def _days(self) -> list[str]:
        days: dict[str, list[dict[str, Any]]] = {}
        for point in self.history.get("points", []):
            days.setdefault(f"{datetime.fromtimestamp(point['time'], UTC):%Y-%m-%d}", []).append(point)
        lines = []
        for day, points in days.items():
            seen = [(point["ratio"], point["compared"]) for point in points if point["ratio"] is not None]
            compared = sum(count for _, count in seen)
            mean = f"{100 * sum(ratio * count for ratio, count in seen) / compared:.1f} %" if compared else "–"
            requests = sum(point["requests"] for point in points)
            lines.append(f"| {day} | {requests:.0f} | {compared:.0f} | {mean} |")
        return lines

    def _disagreements(self) -> list[str]:
        if self.disagreements is None:
            return [f"The newest disagreements could not be read: {self.missing}"]
        pairs = Counter((row["student"], row["teacher"]) for row in self.disagreements["rows"])
        if not pairs:
            return ["No disagreement is kept."]
        return [
            f"The newest {pairs.total()} disagreements, most frequent first:",
            "",
            "| student | teacher | texts |",
            "|---|---|--:|",
            *(f"| {_cell(s)} | {_cell(t)} | {count} |" for (s, t), count in pairs.most_common(_PAIRS)),
        ]


def _cell(value: Any) -> str:
    """Return a label as a cell of a table, whatever is in it."""
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
