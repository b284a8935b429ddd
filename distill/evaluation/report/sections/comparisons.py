"""The section on what distillation is worth: the same student trained in other ways."""

from __future__ import annotations

from typing import Any

from distill.evaluation.report.document import Block, Paragraph, Section, Table
from distill.evaluation.report.formats import Interval, percent

_NAMES = {
    "pretrained": "no distillation: gold labels, nothing of the teacher",
    "gold": "gold labels",
    "hard": "hard labels of the teacher",
    "soft": "soft labels",
    "human": "soft labels, then gold labels",
}


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section, None if no student was trained in other ways."""
    compared = gap["comparisons"]
    if not compared:
        return None
    counts = {own["texts"] for ways in compared.values() for own in ways.values()}
    same = len(counts) == 1
    on = f" on the same {min(counts):,} texts" if same else ""
    why = "" if same else "Not every row could be trained on every text. "
    text = (
        f"The same student, trained in other ways{on}, and scored by PyTorch before its export. {why}"
        "Differences are in points, on the same test rows. Where the interval of one excludes zero, it is more than "
        "chance on this test split, for this one seed of training."
    )
    blocks: list[Block] = [Paragraph(text)]
    for name, ways in compared.items():
        blocks.append(_table(name, ways, same))
    return Section("What distillation is worth", blocks)


def _table(name: str, ways: dict[str, dict[str, Any]], same: bool) -> Table:
    has_gold = ways["soft"]["accuracy"] is not None
    header = [name, *([] if same else ["trained on"]), "agreement", "soft labels: more by"]
    if has_gold:
        header += ["accuracy", "soft labels: more by", "macro-F1"]
    rows = []
    for way in (way for way in _NAMES if way in ways):
        own = ways[way]
        cells = [] if same else [_texts(way, ways)]
        cells += [percent(own["agreement"]), _points(way, own["agreement_lost"])]
        if has_gold:
            cells += [percent(own["accuracy"]), _points(way, own["accuracy_lost"]), percent(own["macro_f1"])]
        rows.append([_NAMES[way], *cells])
    return Table(header, rows)


def _texts(way: str, ways: dict[str, dict[str, Any]]) -> str:
    texts = f"{ways[way]['texts']:,}"
    return f"{ways['soft']['texts']:,}, then {texts}" if way == "human" else texts


def _points(way: str, lost: Interval) -> str:
    if way == "soft":
        return ""
    return f"{100 * lost['value']:+.1f} [{100 * lost['lower']:+.1f}, {100 * lost['upper']:+.1f}]"
