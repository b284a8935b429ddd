"""Have a teacher write paraphrases of the texts to train on, or foresee what it will write. They are labelled later.

Every response is in the account before anything uses it, so paraphrases are written, and paid for, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.labelling.label import MOST_ALIKE, Progress, work_through
from distill.labelling.sqlite_store import Store
from distill.teachers import Teacher, TeacherError
from distill.teachers.prompting.paraphrases import Paraphraser, Written


@dataclass(frozen=True, slots=True)
class PaidParaphrases:
    """Says for which texts a paraphraser's call is paid for, as a store of answers says it for a teacher's."""

    paraphraser: Paraphraser
    store: Store

    def has(self, teacher: object, text: str, repeat: int = 0) -> bool:
        """Whether the call for a text is paid for."""
        return bool(self.store.read("SELECT 1 FROM calls WHERE key = ?", (self.paraphraser.key(text),)))


def make_paraphraser(teacher: Teacher, count: int) -> Paraphraser:
    """Make what writes `count` paraphrases of a text. Raises TeacherError for a teacher that writes no texts."""
    make = getattr(teacher, "paraphraser", None)
    if make is None:
        raise TeacherError(f"labelling.paraphrases: {teacher.name} writes no texts; leave it out")
    made: Paraphraser = make(count)
    return made


async def write_paraphrases(paraphraser: Paraphraser, texts: Sequence[str], progress: Progress) -> list[Written]:
    """Return the paraphrases of each text, [N], of which those are written that were not before.

    Raises TeacherError when the server fails, or gives none for `MOST_ALIKE` texts in a row, and BudgetError when the
    money is used up; what was written so far stays stored.
    """
    written: dict[str, Written] = {}
    lacking = 0

    async def write(text: str) -> None:
        nonlocal lacking
        known = await paraphraser.recall(text)
        written[text] = one = await paraphraser.write(text) if known is None else known
        if known is None:
            progress.advance(1)
        else:
            progress.known(1)
        lacking = 0 if one.texts else lacking + 1
        if lacking >= MOST_ALIKE:
            raise TeacherError(
                f"{paraphraser.name} gave no paraphrases of {lacking} texts one after the other ({one.why}); use "
                "another model, or leave labelling.paraphrases out",
                text=text,
            )

    await work_through(iter(dict.fromkeys(texts)), write, paraphraser.concurrency, paraphraser.stop)
    return [written[text] for text in texts]


async def foreseen(paraphraser: Paraphraser, texts: Sequence[str]) -> list[Sequence[str]]:
    """Return the paraphrases of each text as far as they are written, and stand-ins of the same length for the others.

    Makes no call.
    """
    known = {text: await paraphraser.recall(text) for text in dict.fromkeys(texts)}
    return [
        [f"{text} {number}" for number in range(paraphraser.count)] if written is None else written.texts
        for text, written in ((text, known[text]) for text in texts)
    ]
