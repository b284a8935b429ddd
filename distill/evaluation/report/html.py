"""Render sections as one HTML page with its style and figures in it: it needs no other file and makes no request.

jinja2 escapes every text, and the page's own policy forbids scripts and requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distill.evaluation.report.document import Figure, Section
from distill.evaluation.report.figures import COLOURS, svg


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the page of a report."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["anchor"] = anchor
    environment.filters["svg"] = _svg
    return environment.get_template("page.html").render(
        title=title, sections=sections, light=_variables(0), dark=_variables(1)
    )


def anchor(title: str) -> str:
    """Return the id of a section."""
    return re.sub(r"\W+", "-", title.casefold()).strip("-")


def _svg(figure: Figure) -> Markup:
    # matplotlib escapes the text that it draws.
    return Markup(svg(figure))


def _variables(scheme: int) -> Markup:
    return Markup(" ".join(f"--{name}: {colours[scheme]};" for name, colours in COLOURS.items()))
