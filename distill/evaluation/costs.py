"""What a student costs against its teacher, and from which volume on it is the cheaper one.

Prices are dollars. A student is paid by the hour of a core, and with it what it leaves to its teacher. A teacher is
paid by the text (an API) or, if it runs on a machine of its own, by that machine's hour.
"""

from __future__ import annotations

from dataclasses import dataclass

HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a student and its teacher.

    `labels_usd` is what the soft labels cost, once. `payback_texts` is the number of texts after which the student has
    saved that much, its core being busy. For a teacher paid by the text, `break_even_texts_per_month` is the volume
    from which a core costs less than the teacher even if it runs all month; it is never more than
    `most_texts_per_month`, which one core can answer. Both are None if the teacher costs no more than the student, or
    its price is not known.
    """

    teacher_usd_per_1000: float | None
    student_usd_per_1000: float
    usd_per_hour: float
    labels_usd: float
    payback_texts: float | None
    core_usd_per_month: float
    most_texts_per_month: float
    break_even_texts_per_month: float | None


def costs(
    *,
    milliseconds: float,
    usd_per_hour: float,
    teacher_usd_per_1000: float | None,
    labels_usd: float,
    by_the_text: bool,
    deferred: float = 0.0,
) -> Costs:
    """Compute the costs of a student that needs `milliseconds` of a core per text, at `usd_per_hour` a core.

    The teacher answers the share `deferred` of the texts, in [0, 1), at its own price, as far as that is known.
    """
    student = milliseconds / 3600 * usd_per_hour + deferred * (teacher_usd_per_1000 or 0.0)
    month, most = usd_per_hour * HOURS_PER_MONTH, HOURS_PER_MONTH * 3_600_000 / milliseconds
    payback = even = None
    if teacher_usd_per_1000 and teacher_usd_per_1000 > student:
        payback = labels_usd / (teacher_usd_per_1000 - student) * 1000
        even = month / (teacher_usd_per_1000 * (1 - deferred)) * 1000 if by_the_text else None
    return Costs(teacher_usd_per_1000, student, usd_per_hour, labels_usd, payback, month, most, even)
