"""Makes a teacher's calls in batches; afterwards each text finds its calls paid for in the account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from distill.teachers.api.teacher import Calling
from distill.teachers.base import Teacher
from distill.teachers.batch.account import BatchAccount
from distill.teachers.batch.base import BatchTeacher
from distill.teachers.batch.collect import Collector
from distill.teachers.batch.submit import Submitter
from distill.teachers.errors import TeacherError


async def make_calls(
    teacher: Teacher | Calling,
    questions: Sequence[tuple[str, int]],
    account: BatchAccount,
    *,
    notify: Callable[[str], None] = lambda message: None,
) -> None:
    """Make every call of a teacher for these texts, each with its repeat, in batches.

    If calls depend on earlier answers, this takes several rounds. The teacher's probes are ordinary calls before, so
    that a wrong key or model is reported within seconds. `notify` gets the progress. Responses are stored in any case.
    Raises TeacherError for a teacher without a batch API and for calls without a usable answer, BudgetError when the
    money is used up.
    """
    batch_teacher = as_batch_teacher(teacher)
    submitter = Submitter(batch_teacher, questions, account, notify)
    collector = Collector(batch_teacher, questions, account, submitter.find, notify)
    await collector.collect()
    while await submitter.submit():
        await collector.collect()
        collector.check()


def as_batch_teacher(teacher: Teacher | Calling) -> BatchTeacher:
    """The teacher as one whose calls can be made in batches. Raises TeacherError if it has no batch API."""
    if not getattr(teacher, "batch_apis", list)():
        raise TeacherError(f"{teacher.name} has no batch API: leave --batch out")
    return cast("BatchTeacher", teacher)


def refuse_open(teacher: Teacher | Calling, account: BatchAccount) -> None:
    """Raise TeacherError if calls of a teacher are in open batches, and must not be made again one by one."""
    for api in getattr(teacher, "batch_apis", list)():
        if batches := account.open(api.place):
            raise TeacherError(
                f"{sum(batch.calls for batch in batches)} calls to {api.api.name} are in open batches and will be "
                "charged: run `reflux label --batch`, which fetches them and goes on"
            )
