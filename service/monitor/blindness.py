"""When nobody knows whether a student may stay: comparisons too old, too few, lost, or with another teacher."""

from __future__ import annotations

from collections.abc import Iterator

from service.monitor.findings import Findings
from service.monitor.windows import FEW, MOST_LOST, SINCE
from service.monitor.wording import duration, percent, when

SILENT_SECONDS = 120.0
SILENT_SAMPLES = 10
"""Without a comparison for so long, and although so many texts were sampled since, the gap is not seen."""

MOST_WIDTH = 0.05
LEAST_COVERED = 0.95

ENOUGH = 100
"""Ended samples that a window must hold before width and coverage are judged by it."""


def reasons(found: Findings) -> list[str]:
    """Return every reason why the gap is not seen, the most telling first, each a sentence with its remedy."""
    if not found.enabled:
        return ["No text is sent to a teacher; set shadow.enabled and shadow.teacher to measure the gap."]
    unread = [found.unread_store] if found.unread_store else []
    other = [found.other_teacher] if found.other_teacher else []
    return [*unread, *other, *_silence(found), *_unread(found), *_losses(found), *_uncertainty(found)]


def _silence(found: Findings) -> Iterator[str]:
    seconds, samples = found.silent_seconds, found.silent_samples
    if seconds is not None and seconds > SILENT_SECONDS and samples >= SILENT_SAMPLES:
        yield (
            f"No text was compared for {duration(seconds)}, although {samples:.0f} were sampled{_because(found)}; see "
            "outcomes and queue, and the log of the service."
        )


def _unread(found: Findings) -> Iterator[str]:
    if found.unread_seconds > SILENT_SECONDS:
        yield (
            f"The witness has read nothing for {duration(found.unread_seconds)}, so that no text is sampled; see the "
            "log of the service, and restart it."
        )


def _losses(found: Findings) -> Iterator[str]:
    hour = found.windows["1h"]
    newest = (found.newest_lost, found.newest_compared, "newest")
    for lost, compared, which in (newest, (hour.lost, hour.compared, "last hour's")):
        ended = lost + compared
        if ended >= FEW and lost > MOST_LOST * ended:
            yield (
                f"{percent(lost / ended)} of the {which} samples ended without a comparison{_because(found)}, so the "
                f"gap is not known; {_remedy_of_losses(found)}."
            )
            return


def _uncertainty(found: Findings) -> Iterator[str]:
    """Judge the shortest window of a day or more that holds enough samples."""
    windows = [found.windows[name] for name in ("1d", "7d", SINCE)]
    judged = next((window for window in windows if window.lost + window.compared >= ENOUGH), None)
    if judged is None or judged.estimate is None:
        return
    lower, upper = judged.estimate.worst_case_lower, judged.estimate.worst_case_upper
    if upper - lower > MOST_WIDTH:
        yield (
            f"Samples without a comparison leave the gap anywhere from {percent(lower)} to {percent(upper)} "
            f"{when(judged)}{_because(found)}; {_remedy_of_losses(found)}."
        )
    if judged.estimate.coverage < LEAST_COVERED:
        yield (
            f"Only {percent(judged.estimate.coverage)} of the traffic is in confidence bands with a comparison "
            f"{when(judged)}; raise shadow.rate."
        )


def _because(found: Findings) -> str:
    """Name the two most frequent outcomes of lost samples, if any."""
    most = sorted((item for item in found.losses.items() if item[1] > 0), key=lambda item: -item[1])[:2]
    return f" ({', '.join(f'{name} {count:.0f}' for name, count in most)})" if most else ""


def _remedy_of_losses(found: Findings) -> str:
    most = max(found.losses, key=lambda name: found.losses[name], default=None)
    if most is None or not found.losses[most]:
        return "see losses"  # none in the last hour
    return {
        "budget": "raise shadow.usd_per_hour or lower shadow.rate",
        "queue_full": "raise shadow.concurrency or lower shadow.rate",
        "store_error": "see the log about the outbox",
    }.get(most, "see the log about the teacher")
