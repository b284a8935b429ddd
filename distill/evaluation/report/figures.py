"""Draw a figure of the report: as PNG for Markdown, and as SVG that takes its colours from the page around it.

The colours of a page are CSS variables, so that one SVG serves light and dark. A PNG has the light ones.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distill.evaluation.report.document import Figure

INK, QUIET, LINE, PAGE = "#14181d", "#555e6a", "#d9dee5", "#ffffff"
SERIES = ("#1f5fae", "#b35900", "#0b6b3a", "#6a3ea1", "#b3261e", "#00696e")
"""Colours of up to six series; more begin anew."""

COLOURS = {
    "ink": (INK, "#e8ecf1"),
    "quiet": (QUIET, "#a3adba"),
    "line": (LINE, "#343b45"),
    "page": (PAGE, "#191d23"),
    **{
        f"series-{at}": (light, dark)
        for at, (light, dark) in enumerate(
            zip(SERIES, ("#7db4ff", "#ffb066", "#5fd38d", "#c9a4ff", "#ff8a80", "#5fd3d8"), strict=True)
        )
    },
}
"""The colours of report and figures by the name of their CSS variable: light and dark."""

_DPI = 144
_STYLE: Any = {  # the keys' type is private to matplotlib
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9.5,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a label is a dollar
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def series(at: int) -> str:
    """Return the colour of a series."""
    return SERIES[at % len(SERIES)]


def log_times(axes: Any) -> None:
    """Make the horizontal axis logarithmic, with plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """Draw a figure as PNG on white."""
    stream = io.BytesIO()
    with _drawn(figure) as drawn:
        drawn.savefig(stream, format="png", dpi=_DPI, facecolor=PAGE)
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """Draw a figure as an SVG element for a page with the variables of `COLOURS`, and with ids of its own."""
    stream = io.StringIO()
    with _drawn(figure) as drawn:
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.savefig(stream, format="svg", metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib names its groups alike in each figure; nothing refers to them.
    referred = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in referred else "", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    return text


@contextmanager
def _drawn(figure: Figure) -> Iterator[Any]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawn

    with rc_context({**_STYLE, "svg.hashsalt": figure.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # browsers have more fonts
        drawn = Drawn(figsize=(figure.width, figure.height), layout="constrained")
        FigureCanvasAgg(drawn)
        figure.plot(drawn.add_subplot())
        yield drawn
