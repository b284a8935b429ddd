"""Progress of long steps, on standard error.

On a terminal it is a bar or a spinner. Elsewhere, as under CI or in a Job, it is a line every `INTERVAL` seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

INTERVAL = 30.0
"""Seconds between two lines where standard error is not a terminal."""

console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
"""Without markup and emoji codes, so that names of models and labels are printed as they are."""


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` steps, and give a function that advances it by a number of steps."""
    with _task(description, total) as (progress, task):
        yield lambda count: progress.advance(task, count)


@dataclass(frozen=True, slots=True)
class LabellingBar:
    """A bar of the texts to ask about, with the rate, the dollars spent and the time left."""

    progress: Progress
    task: TaskID

    def advance(self, count: int) -> None:
        """Count texts that were answered."""
        self.progress.advance(self.task, count)

    def known(self, count: int) -> None:
        """Remove texts that need not be asked about from the total, so that they do not affect the rate."""
        total = self.progress.tasks[0].total or 0.0
        self.progress.update(self.task, total=max(0.0, total - count))


@contextmanager
def labelling_bar(description: str, total: int, spent: Callable[[], str]) -> Iterator[LabellingBar]:
    """Show how many texts a teacher has answered; `spent` returns what they cost so far."""
    with _task(description, total, _Rate(), _Note(spent), note=spent) as (progress, task):
        yield LabellingBar(progress, task)


@contextmanager
def status(description: str) -> Iterator[Callable[[str], None]]:
    """Show that a step without a count is at work, and give a function that changes its message."""
    if _animated():
        with console.status(Text(description)) as shown:
            yield lambda now: shown.update(Text(f"{description}: {now}"))
        return
    start, message = time.monotonic(), ""

    def update(now: str) -> None:
        nonlocal message
        if now != message:
            console.print(f"{description}: {now}")
        message = now

    def repeat() -> str:
        doing = f"{message}, for" if message else "at work for"
        return f"{description}: {doing} {duration(time.monotonic() - start)}"

    with _lines(repeat, last=False):
        yield update


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items, and show how many were taken."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def duration(seconds: float) -> str:
    """Format seconds: `45 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _task(
    description: str, total: int, *columns: ProgressColumn, note: Callable[[], str] = lambda: ""
) -> Iterator[tuple[Progress, TaskID]]:
    """Show a task of `total` steps, with `columns` besides the usual ones or, in lines, with a note."""
    usual = TextColumn("{task.description:<34}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*usual, *columns, *times, console=console, disable=not _animated()) as progress:
        task = progress.add_task(description, total=total)
        with _lines(lambda: _line(progress.tasks[0], note())):
            yield progress, task


def _line(task: Task, note: str) -> str:
    """Describe a task in a line: done, total, and the time left or, at the end, the time it took."""
    done, total = int(task.completed), int(task.total or 0)
    parts = [f"{task.description}: {done:,} of {total:,}"]
    if note:
        parts.append(note)
    if done >= total:
        parts.append(f"took {duration(task.elapsed or 0)}")
    else:
        # From the mean rate since the start, which is steadier than the recent rate.
        left = (task.elapsed or 0) * (total - done) / done if done else None
        parts.append("time left unknown" if left is None else f"{duration(left)} left")
    return ", ".join(parts)


@contextmanager
def _lines(line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Print `line()` every `INTERVAL` seconds and, with `last`, at the end, unless a bar or spinner is shown."""
    if _animated():
        yield
        return
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(INTERVAL):
            console.print(line())

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if last:
            console.print(line())


def _animated() -> bool:
    """Whether the console can redraw lines. With FORCE_COLOR, rich takes a file for a terminal, so check that too."""
    return console.is_jupyter or (console.is_interactive and console.file.isatty())


class _Rate(ProgressColumn):
    """Texts per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")


class _Note(ProgressColumn):
    """A text that a function returns at each refresh."""

    def __init__(self, note: Callable[[], str]) -> None:
        super().__init__()
        self._note = note

    def render(self, task: Task) -> Text:
        return Text(self._note())
