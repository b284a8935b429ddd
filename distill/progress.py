"""Progress bars on standard error, for whatever takes longer than a person likes to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
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

console = Console(stderr=True)


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps; the function it gives advances it."""
    with _shown(*_columns(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


@dataclass(frozen=True, slots=True)
class AskingBar:
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
def asking_bar(description: str, total: int, spent: Callable[[], str]) -> Iterator[AskingBar]:
    """A bar for asking a teacher; `spent` tells what was spent so far."""
    with _shown(*_columns(), _Rate(), _Note(spent), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        yield AskingBar(progress, progress.add_task(description, total=total))


@contextmanager
def status(description: str) -> Iterator[Callable[[str], None]]:
    """A line that says how something stands; the function it gives changes it. In a file each change is a line."""
    last = ""

    def tell(said: str) -> None:
        nonlocal last
        if not console.is_terminal and said != last:
            console.print(f"{description}: {said}", markup=False, highlight=False, soft_wrap=True)
        last = said
        shown.update(escape(f"{description}: {said}"))

    with console.status(escape(description)) as shown:
        yield tell


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a bar that advances as they are taken."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


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
    return Progress(*columns, console=console)
