"""Ask a teacher about every text of a pool that has no stored answer, and turn the answers into soft labels."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from distill.data.splits import Examples
from distill.errors import DistillError
from distill.labelling.answer_store import AnswerStore
from distill.labelling.soft_labels import SoftLabels
from distill.teachers import Answer, Teacher, TeacherError

T = TypeVar("T")

MOST_ALIKE = 20
"""Texts in a row that may be rejected with the same message; then the reason is taken to be the teacher, not them."""

DIGITS = re.compile(r"\d+")
"""What messages may differ in and still count as the same."""

_MOST_NAMED = 10  # rows without a label that the result names
_WINDOW = 32  # batches, per concurrent call, that are sorted by length together


@dataclass(frozen=True, slots=True)
class LabelledPool:
    """A pool's soft labels, and how many texts have none because the answer was `refused` or `invalid`.

    `asked` counts the texts that were asked about now; `unlabelled` describes the first rows without a label.
    """

    soft: SoftLabels
    asked: int
    refused: int
    invalid: int
    unlabelled: tuple[str, ...] = ()


class Progress(Protocol):
    """Counts the texts of a labelling, as `distill.progress.LabellingBar` does."""

    def advance(self, count: int) -> None:
        """Count texts that were answered now."""

    def known(self, count: int) -> None:
        """Count texts whose answers were stored before."""


class _Silent:
    def advance(self, count: int) -> None:
        """Show nothing."""

    known = advance


SILENT: Progress = _Silent()


class Engine(Protocol):
    """Asks a teacher about every text that the store lacks; `ask_missing` does so in this process."""

    async def __call__(
        self, teacher: Teacher, texts: Iterable[str], store: AnswerStore, progress: Progress, *, repeat: int = 0
    ) -> int:
        """Return how many texts were asked about."""


async def ask_missing(
    teacher: Teacher, texts: Iterable[str], store: AnswerStore, progress: Progress = SILENT, *, repeat: int = 0
) -> int:
    """Ask the teacher about every text that the store lacks, and return how many those were.

    Texts are read only as they are needed, so memory depends on the calls in flight and not on the pool. When the
    teacher fails, or this is cancelled, the answers in flight are awaited and stored, and the teacher's `stop`, if it
    has one, keeps it from beginning further calls; a second cancellation drops them.
    """
    in_flight: set[str] = set()
    writer = AnswerWriter(teacher, store, repeat)
    asked = 0

    async def ask(batch: Sequence[str]) -> None:
        nonlocal asked
        await writer.add(batch, await teacher.ask(batch, repeat))
        in_flight.difference_update(batch)
        asked += len(batch)
        progress.advance(len(batch))

    def stop() -> None:
        getattr(teacher, "stop", lambda: None)()  # else calls that a server delays would be waited for

    await work_through(_batches(teacher, texts, store, repeat, in_flight, progress), ask, teacher.concurrency, stop)
    await writer.finish()
    return asked


async def work_through(
    items: Iterator[T], work: Callable[[T], Awaitable[None]], concurrency: int, stop: Callable[[], None]
) -> None:
    """Do the work of each item, of so many at once, and take items only as they are needed.

    When the work of one fails, or this is cancelled, `stop` is called, no further item is taken, and those in hand are
    awaited before the error is raised; a second cancellation drops them.
    """
    stopped = asyncio.Event()
    failures: list[BaseException] = []

    def end() -> None:
        stopped.set()
        stop()

    async def worker() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                await work(item)
        except BaseException as error:
            failures.append(error)
            end()

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        end()
        await _until_done(workers)
        raise
    if failures:
        raise failures[0]


async def label(
    teacher: Teacher, examples: Examples, store: AnswerStore, progress: Progress = SILENT, engine: Engine = ask_missing
) -> LabelledPool:
    """Have the teacher asked about every text that the store lacks, and return the soft labels of all `examples`."""
    with naming_rows(examples):
        asked = await engine(teacher, examples.texts, store, progress)
    return _collect(teacher, examples, store, asked)


class AnswerWriter:
    """Stores a teacher's answers; one that is not a distribution over the labels is stored as `invalid`.

    A rejection that may not be about its text (`doubtful`) is held back until another text is answered, or `finish`.
    """

    def __init__(self, teacher: Teacher, store: AnswerStore, repeat: int = 0) -> None:
        self._teacher = teacher
        self._store = store
        self._repeat = repeat
        self._held: list[tuple[str, Answer]] = []

    async def add(self, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Store answers, or hold them back.

        Raises DistillError when there are not as many answers as texts, or the disk does not take them, and
        TeacherError when `MOST_ALIKE` texts in a row were rejected with the same message.
        """
        if len(answers) != len(texts):
            raise DistillError(f"{self._teacher.name} gave {len(answers)} answers for {len(texts)} texts")
        checked = [(text, _checked(one, self._teacher)) for text, one in zip(texts, answers, strict=True)]
        self._held += [one for one in checked if one[1].doubtful]
        sure = [one for one in checked if not one[1].doubtful]
        if any(answer.outcome == "ok" for _, answer in sure):
            sure, self._held = [*self._held, *sure], []
        await self._store_all(sure)
        alike = Counter(DIGITS.sub("", answer.reason) for _, answer in self._held)
        if self._held and max(alike.values()) >= MOST_ALIKE:
            text, last = self._held[-1]
            raise TeacherError(
                f"{self._teacher.name} rejected {len(self._held)} texts one after the other, and said: {last.reason}. "
                "Nothing is stored of that: correct the teacher, or leave these texts out, and run the command again",
                text=text,
            )

    async def finish(self) -> None:
        """Store what was held back. Raises DistillError when the disk does not take it."""
        held, self._held = self._held, []
        await self._store_all(held)

    async def _store_all(self, answered: Sequence[tuple[str, Answer]]) -> None:
        if answered:
            texts, answers = zip(*answered, strict=True)
            await self._store.add(self._teacher, texts, answers, self._repeat)


@contextmanager
def naming_rows(examples: Examples) -> Iterator[None]:
    """Prefix a TeacherError that is about one text with the id of that text's row in `examples`."""
    try:
        yield
    except TeacherError as error:
        if error.text is not None:
            rows = zip(examples.ids, examples.texts, strict=True)
            if row := next((name for name, text in rows if text == error.text), ""):
                error.args = (f"{row}: {error}",)
        raise


async def _until_done(workers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the workers; cancel them if the wait itself is cancelled."""
    try:
        await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()


def _batches(
    teacher: Teacher,
    texts: Iterable[str],
    store: AnswerStore,
    repeat: int,
    in_flight: set[str],
    progress: Progress,
) -> Iterator[Sequence[str]]:
    """Yield batches of texts that are neither stored nor `in_flight`, texts of similar length together.

    Within a window the longest texts come first, so that a progress bar overestimates the time left.
    """
    source = iter(texts)
    while window := tuple(islice(source, _WINDOW * teacher.batch_size * teacher.concurrency)):
        new = [text for text in dict.fromkeys(window) if text not in in_flight and not store.has(teacher, text, repeat)]
        if len(new) < len(window):
            progress.known(len(window) - len(new))
        new.sort(key=len, reverse=True)
        in_flight.update(new)
        for start in range(0, len(new), teacher.batch_size):
            yield new[start : start + teacher.batch_size]


def _checked(answer: Answer, teacher: Teacher) -> Answer:
    """Return the answer; one with the outcome `ok` that is not a distribution over the labels becomes `invalid`."""
    if answer.outcome != "ok":
        return answer
    row = answer.probabilities
    if row is not None and row.shape == (len(teacher.labels),) and bool((row >= 0).all()) and abs(row.sum() - 1) < 1e-3:
        return answer
    return replace(answer, probabilities=None, outcome="invalid")


def _collect(teacher: Teacher, examples: Examples, store: AnswerStore, asked: int) -> LabelledPool:
    """Read the stored answers of all `examples`. Raises DistillError when one is missing or none is a label."""
    counts = {"ok": 0, "refused": 0, "invalid": 0}
    rows: list[int] = []
    answers: list[Answer] = []
    unlabelled: list[str] = []
    for row, answer in enumerate(store.get(teacher, examples.texts)):
        if answer is None:
            raise DistillError(f"{teacher.name} left a text without an answer; run the command again")
        counts[answer.outcome] += 1
        if answer.outcome == "ok":
            rows.append(row)
            answers.append(answer)
        elif len(unlabelled) < _MOST_NAMED:
            reason = store.rejection(teacher, examples.texts[row])
            unlabelled.append(f"{examples.ids[row]} {answer.outcome}{f': {reason}' if reason else ''}")
    if not rows:
        raise DistillError(
            f"{teacher.name} answered none of {len(examples)} texts with a label ({counts}), such as {unlabelled[0]}"
        )
    kept = examples.take(rows)
    soft = SoftLabels(
        ids=kept.ids,
        texts=kept.texts,
        labels=teacher.labels,
        probabilities=np.stack([answer.probabilities for answer in answers if answer.probabilities is not None]),
        methods=tuple(answer.method for answer in answers),
        covered=np.array([answer.covered for answer in answers]),
        tail=np.array([answer.tail for answer in answers]),
        tokens=np.array([answer.tokens for answer in answers], dtype=np.int64),
        cost_usd=np.array([answer.cost_usd for answer in answers]),
        seconds=np.array([answer.seconds for answer in answers]),
        teacher=teacher.name,
        teacher_version=teacher.version,
    )
    return LabelledPool(soft, asked, counts["refused"], counts["invalid"], tuple(unlabelled))
