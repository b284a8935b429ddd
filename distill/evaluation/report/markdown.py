"""Render sections as Markdown (GitHub's). Text is escaped, so that no part of a text or a label becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from distill.evaluation.report.document import Block, Bullets, Facts, Figures, Paragraph, Quotes, Section, Table

_MARKUP = re.compile(r"[\\`*<&|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def render(title: str, sections: Iterable[Section]) -> str:
    """Return the Markdown of a report. The first section has no heading of its own: it follows the title."""
    lines = [f"# {escape(title)}"]
    for number, section in enumerate(sections):
        if number:
            lines += ["", f"## {escape(section.title)}"]
        for block in section.blocks:
            lines += ["", *_lines(block)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape a text for Markdown, on one line."""
    return _MARKUP.sub(_escaped, " ".join(text.split()))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    shown = [header, *rows]
    lines = ["| " + " | ".join(escape(cell) for cell in line) + " |" for line in shown]
    return [lines[0], "| " + " | ".join(["---"] * len(header)) + " |", *lines[1:]]


def _escaped(found: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(found.group(), f"\\{found.group()}")


def _lines(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        text = escape(block.text)
        return [{"verdict": f"**{text}**", "warning": f"**Warning:** {text}"}.get(block.kind, text)]
    if isinstance(block, Bullets):
        return [f"- {escape(item)}" for item in block.items]
    if isinstance(block, Quotes):
        return [f"{at}. {escape(text)}<br>{escape(note)}" for at, (text, note) in enumerate(block.items, start=1)]
    if isinstance(block, Facts):
        return [f"- {escape(f'{fact.name}: {fact.value}')}{_note(fact.note)}" for fact in block.items]
    if isinstance(block, Table):
        return table(block.header, block.rows)
    if isinstance(block, Figures):
        return [f"![{escape(figure.alt)}]({figure.name}.png)" for figure in block.items]
    raise TypeError(f"no such block: {type(block).__name__}")


def _note(text: str) -> str:
    return f" ({escape(text)})" if text else ""
