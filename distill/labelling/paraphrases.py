"""Have a teacher write paraphrases of the texts to train on, or foresee what it will write. They are labelled later.

Every response is in the account before anything uses it, so paraphrases are written, and paid for, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.data.splits import normalise
from distill.labelling.label import DIGITS, MOST_ALIKE, Progress, work_through
from distill.labelling.sqlite_store import Store
from distill.teachers import Teacher, TeacherError
from distill.teachers.prompting.paraphrases import Paraphraser, Written

_REPEATED = "it repeats the text, or what it wrote before"


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

    Raises TeacherError when the server fails, or for `MOST_ALIKE` texts in a row writes nothing new for the same
    reason, and BudgetError when the money is used up; what was written so far stays stored.
    """
    written: dict[str, Written] = {}
    seen = {normalise(text) for text in texts}
    vain: Counter[str] = Counter()  # the reasons of the last texts, one after the other, that were paid for in vain

    async def write(text: str) -> None:
        known = await paraphraser.recall(text)
        written[text] = one = await paraphraser.write(text) if known is None else known
        forms = {normalise(paraphrase) for paraphrase in one.texts}
        new = not forms <= seen
        seen.update(forms)
        if known is not None:
            progress.known(1)
            return
        progress.advance(1)
        if new:
            vain.clear()
            return
        reason = _REPEATED if one.texts else one.reason
        alike = _REPEATED if one.texts else DIGITS.sub("", one.why)
        vain[alike] += 1
        if vain[alike] >= MOST_ALIKE:
            raise TeacherError(
                f"{paraphraser.name} gave no new paraphrases of {vain.total()} texts one after the other ({reason}). "
                "Its answers are stored: run the command again to go on with the other texts, or use another model, or "
                "leave labelling.paraphrases out",
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
