"""The report of a redistillation: what was taken from the log, what came of it, and the decision. It holds no text."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.stages import write_atomic
from distill.task import Task
from export.bundle.format import Bundle
from reflux.redistill.graphs import Graph, compared
from reflux.redistill.judgement import Judgement
from reflux.redistill.rows import Facts
from service.monitor.paired import PairedDifference

MARKDOWN = "redistill.md"
JSON = "redistill.json"


def write_report(
    folder: Path,
    task: Task,
    candidate: Bundle,
    graphs: tuple[Graph, Graph],
    facts: Facts,
    judged: Judgement,
    note: str | None,
) -> None:
    """Write `redistill.md` and `redistill.json` into a folder. `task` has the students that were trained.

    `graphs` are those of the candidate and of the current bundle.
    """
    body = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": task.name,
        "students": list(task.students),
        "candidate": {
            "name": candidate.manifest.name,
            "version": judged.log.candidate_version,
            "path": str(candidate.path),
            "note": note,
        },
        "current": judged.log.current_version,
        "graphs": {"candidate": asdict(graphs[0]), "current": asdict(graphs[1])},
        "decision": {"gate": judged.gate, "message": judged.message, "margin": judged.log.margin},
        "rows": asdict(facts),
        "log": asdict(judged.log),
        "test": {"texts": judged.test_rows, "found": None if judged.test is None else asdict(judged.test)},
    }
    write_atomic(folder / JSON, json.dumps(body, indent=2, ensure_ascii=False) + "\n")
    write_atomic(folder / MARKDOWN, _markdown(body, compared(*graphs), facts, judged))


def _markdown(body: dict[str, Any], told: str, facts: Facts, judged: Judgement) -> str:
    answered = sum(band.answers for band in facts.bands)
    lines = [
        f"# {judged.gate.upper()}: {body['task']}, candidate {judged.log.candidate_version}, {body['created']}",
        "",
        f"{judged.message[0].upper()}{judged.message[1:]}.",
        "",
        f"Trained on the task's own rows and on {facts.texts} texts of the shadow log, answered by "
        f"{judged.log.teacher}: {', '.join(body['students'])}. The candidate is {body['candidate']['name']}, "
        f"the current bundle {judged.log.current_version}.",
        "",
        f"{told[0].upper()}{told[1:]}.",
        *(["", f"Note: {body['candidate']['note']}."] if body["candidate"]["note"] else []),
        "",
        "| | texts | gap of the current bundle | of the candidate | difference, points | 95 % interval |",
        "|---|--:|--:|--:|--:|--:|",
        _line("held-out texts of the log", judged.log.texts, judged.log.found),
        _line("test split of the task", judged.test_rows, judged.test),
        "",
        "## What was taken from the log",
        "",
        f"{facts.answers} answers about {facts.texts} different texts, {facts.redacted} of which hold a placeholder "
        "such as `<EMAIL>`. With weights that undo changes of the sampling rate, they are worth as much as "
        f"{facts.effective:.0f} texts of equal weight.",
        "",
        f"- new since the last candidate that passed or failed: {facts.new}{_since(facts)}",
        f"- held out to judge, never trained on: {facts.held_out}",
        f"- left out because validation or test rows of the task are alike: {facts.duplicates}",
        f"- left out because their texts are erased: {facts.erased}",
        f"- left out because another teacher, or another version of it, answered, or for other labels: {facts.others}",
        "",
        "| confidence band | answers taken | share of them | share of the traffic | the student disagreed |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {band.band} | {band.answers} | {_percent(band.answers / answered)} | {_percent(band.share)} | "
            f"{_percent(band.disagreed / band.answers)} |"
            for band in facts.bands
        ),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, texts: int, found: PairedDifference | None) -> str:
    if found is None:
        return f"| {name} | {texts} | – | – | – | – |"
    gaps = f"{_percent(found.current)} | {_percent(found.candidate)}"
    return (
        f"| {name} | {texts} | {gaps} | {100 * found.difference:+.2f} | "
        f"{100 * found.lower:+.2f} to {100 * found.upper:+.2f} |"
    )


def _since(facts: Facts) -> str:
    return "" if facts.since is None else f" ({datetime.fromtimestamp(facts.since, UTC):%Y-%m-%d %H:%M} UTC)"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
