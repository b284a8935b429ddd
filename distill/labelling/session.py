"""Has a teacher asked for all that a task needs: by whom, within which budget, and with what shown meanwhile.

Which texts those are, and what is made of the answers, is in `distill.labelling.audit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from distill import teachers
from distill.data.preparation import Splits
from distill.errors import DistillError, StoppedError
from distill.labelling.account import Cashbook, dollars
from distill.labelling.audit import Appraised, Extra, gold_rows, label_and_appraise, rows_to_repeat
from distill.labelling.batch_account import Batchbook
from distill.labelling.dry_run import Ledger, foresee, priced
from distill.labelling.forecast import Forecast
from distill.labelling.interrupts import interruptible, run_async
from distill.labelling.label import AnswerStore, Engine, answer, naming_rows
from distill.progress import asking_bar, bar, console, status
from distill.task import Task
from distill.teachers import Teacher
from distill.teachers.batch import runner

_NAMED = 3  # rows without a label, in the line that says that there are some


@dataclass(frozen=True, slots=True)
class Means:
    """How to ask: `max_usd` bounds what calls cost in a run, now and before.

    With `batch` calls go through the vendor's batch API, with `workers` they are made by so many of a Ray cluster.
    """

    max_usd: float | None = None
    batch: bool = False
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Asking:
    """What to ask: the texts of `splits`, of the teacher that `config` describes; answers are kept at `path`."""

    task: Task
    config: BaseModel
    splits: Splits
    path: Path

    def ask(self, means: Means) -> Appraised:
        """Ask for what was not answered before, and appraise the answers. The record says what was spent.

        Raises BudgetError when the money is not enough, and StoppedError for Ctrl-C; what was answered is kept.
        """
        with AnswerStore(self.path) as store:
            book = Cashbook(store, means.max_usd)
            try:
                with self._engine(book, means.workers) as engine:
                    appraised = run_async(self._ask(engine, store, book, means.batch))
            except (KeyboardInterrupt, asyncio.CancelledError):
                raise StoppedError(
                    f"stopped: every answer so far is stored, and {dollars(book.spent)} are spent on calls in all; run "
                    "the command again to go on, and nothing is asked or paid for twice"
                ) from None
        return replace(appraised, record={"spent_usd": book.spent, **appraised.record})

    def forecast(self) -> list[str]:
        """What is not answered yet will cost and take, in lines. No call is made, and no model loaded."""
        kind = getattr(self.config, "kind", None)
        if not priced(teachers.teacher_class(kind)):
            return [f"a teacher of kind {kind} makes no calls that are paid for: labelling costs nothing"]
        return run_async(self._foresee()).lines()

    @property
    def _extra(self) -> Extra:
        """What to ask the teacher beside the pool."""
        section = self.task.labelling
        gold = None if section.calibration is None else gold_rows(section.calibration, self.splits.labels)
        order = rows_to_repeat(self.splits.validation, self.splits.train, self.task.data.seed)
        return Extra(section.calibration, gold, order, section.self_agreement)

    @contextmanager
    def _engine(self, book: Cashbook, workers: int) -> Iterator[Engine]:
        """Who asks the teacher: this process, or workers of a Ray cluster."""
        if not workers:
            yield answer
            return
        try:
            from distill.labelling.ray.engine import RayEngine
        except ImportError as error:
            raise DistillError(f"--engine ray needs Ray ({error}): pip install 'reflux[ray]'") from error
        with RayEngine(self.config, book, workers) as engine:
            yield engine

    async def _ask(self, engine: Engine, store: AnswerStore, book: Cashbook, batch: bool) -> Appraised:
        with status("loading the teacher"):
            teacher = teachers.create(self.config, self.splits.labels, book)
        try:
            return await interruptible(
                self._appraise(teacher, engine, store, book, batch),
                lambda: console.print("stopping after the calls in flight, as they are paid; Ctrl-C again drops them"),
            )
        finally:
            await book.close()
            await teacher.aclose()

    async def _appraise(
        self, teacher: Teacher, engine: Engine, store: AnswerStore, book: Cashbook, batch: bool
    ) -> Appraised:
        pool, extra = self.splits.everything, self._extra
        spent = (lambda: dollars(book.spent)) if priced(teacher) else str
        if batch:
            with status(teacher.name) as told:
                new = [one for one in extra.questions(pool) if not store.has(teacher, *one)]
                with naming_rows(pool):
                    await runner.fill(teacher, new, Batchbook(store, book), told=told)
        else:
            runner.refuse_open(teacher, Batchbook(store, book))
        with asking_bar(f"{teacher.name} labels the pool", len(pool) + extra.texts, spent) as shown:
            appraised = await label_and_appraise(
                teacher, pool, extra, store, advance=shown.advance, known=shown.known, engine=engine
            )
        labelled = appraised.labelling
        if labelled.unlabelled:
            count, shown_rows = labelled.refused + labelled.invalid, "; ".join(labelled.unlabelled[:_NAMED])
            more = "; …" if count > _NAMED else ""
            said = f"{count:,} of {len(pool):,} rows have no label: {shown_rows}{more}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)
        cut = getattr(teacher, "truncated", 0) + getattr(engine, "truncated", 0)
        return replace(appraised, record={**appraised.record, "truncated": cut}) if cut else appraised

    async def _foresee(self) -> Forecast:
        questions = self._extra.questions(self.splits.everything)
        with AnswerStore(self.path) as store:
            ledger = Ledger(Cashbook(store))
            with status("loading the teacher"):
                teacher = teachers.create(self.config, self.splits.labels, ledger)
            if not priced(teacher):
                raise TypeError(f"{teacher.name} cannot plan")
            try:
                with bar(f"{teacher.name} plans its calls", len(questions)) as advance:
                    return await foresee(teacher, questions, store, ledger, advance)
            finally:
                await teacher.aclose()
