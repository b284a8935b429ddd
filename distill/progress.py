"""Progress on standard error, for whatever takes longer than a person likes to wait.

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
"""Names of models and labels are printed as they are: they are neither markup nor emoji codes."""


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far `total` steps are; the function it gives advances by so many."""
    with _shown(*_columns(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(description, total=total)
        with _lines(lambda: _account(progress.tasks[0])):
            yield lambda count: progress.advance(task, count)


@dataclass(frozen=True, slots=True)
class LabellingBar:
    """The texts to ask, the rate at which they are answered, what was spent, and the time that is left."""

    progress: Progress
    task: TaskID

    def advance(self, count: int) -> None:
        """So many texts were answered."""
        self.progress.advance(self.task, count)

    def known(self, count: int) -> None:
        """So many texts need not be asked; they say nothing of the rate."""
        total = self.progress.tasks[0].total or 0.0
        self.progress.update(self.task, total=max(0.0, total - count))


@contextmanager
def labelling_bar(description: str, total: int, spent: Callable[[], str]) -> Iterator[LabellingBar]:
    """Show how many texts a teacher has answered; `spent` says what that cost so far."""
    with _shown(*_columns(), _Rate(), _Note(spent), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(description, total=total)
        with _lines(lambda: _account(progress.tasks[0], spent())):
            yield LabellingBar(progress, task)


@contextmanager
def status(description: str) -> Iterator[Callable[[str], None]]:
    """Show how something stands whose steps cannot be counted; the function it gives changes what is said."""
    if _animated():
        with console.status(Text(description)) as shown:
            yield lambda now: shown.update(Text(f"{description}: {now}"))
        return
    start, said = time.monotonic(), ""

    def tell(now: str) -> None:
        nonlocal said
        if now != said:
            console.print(f"{description}: {now}")
        said = now

    def again() -> str:
        doing = f"{said}, for" if said else "at work for"
        return f"{description}: {doing} {duration(time.monotonic() - start)}"

    with _lines(again, last=False):
        yield tell


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Give the items, and show how many were taken."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _account(task: Task, note: str = "") -> str:
    """One line about a task: done, total, and the time left or, at the end, the time it took."""
    done, total = int(task.completed), int(task.total or 0)
    parts = [f"{task.description}: {done:,} of {total:,}"]
    if note:
        parts.append(note)
    if done >= total:
        parts.append(f"took {duration(task.elapsed or 0)}")
    else:
        # The mean rate since the start: where lines are rare, a steady estimate is worth more than a fresh one.
        left = (task.elapsed or 0) * (total - done) / done if done else None
        parts.append("time left not known yet" if left is None else f"{duration(left)} left")
    return ", ".join(parts)


@contextmanager
def _lines(say: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Print what `say` says every `INTERVAL` seconds and, with `last`, at the end, where nothing is animated."""
    if _animated():
        yield
        return
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(INTERVAL):
            console.print(say())

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if last:
            console.print(say())


def _animated() -> bool:
    """Whether what is shown may be drawn over. With FORCE_COLOR, rich alone would take a file for a terminal."""
    return console.is_jupyter or (console.is_interactive and console.file.isatty())


class _Rate(ProgressColumn):
    """Texts a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")


class _Note(ProgressColumn):
    """Something that is said anew each time."""

    def __init__(self, say: Callable[[], str]) -> None:
        super().__init__()
        self._say = say

    def render(self, task: Task) -> Text:
        return Text(self._say())


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description:<34}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn()


def _shown(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=console, disable=not _animated())
