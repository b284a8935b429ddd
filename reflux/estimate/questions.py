"""Find the questions that a log asks again and again: the same prompt around texts that differ, with closed answers.

A question is closed, a classification, if nearly all answers are one of few names.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from distill.data.splits import normalise
from distill.teachers.prompting.naming import named_label, stated_name
from reflux.estimate.log import Call

_HEAD = 40  # characters that calls with one prompt begin with alike
_FEWEST = 20  # calls of a prompt
_LEAST_SHARE = 0.05
_SEAMS_BEFORE = "\n:\"'>`|]"  # where the text begins, after one of these
_SEAMS_AFTER = "\n\"'<`|["  # where it has ended, before one of these
_MOST_PROMPTS = 20  # different instructions, before only their beginning counts
_BEGINNING = 200

MOST_LABELS = 500
LEAST_NAMED = 0.9
"""The share of the answers that must name one of the labels for a question to be closed."""

_LONGEST_NAME = 80
_TEXTS_PER_LABEL = 5  # on average at least
_FREE = 0.5  # of the answers; if more names differ, they are taken for texts
_RARE = 0.001  # of the answers; rarer names, or ones that stand alone, are no labels


@dataclass(frozen=True, slots=True)
class Question:
    """Calls with one prompt: what stands before and after the text, the N `texts`, and the N names of the answers.

    `labels` are the names that count, the commonest first, and empty if the question is open. An answer that names none
    of them is None among `chosen` [N].
    """

    instructions: str
    before: str
    after: str
    calls: tuple[Call, ...]
    texts: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    chosen: tuple[str | None, ...]

    @property
    def closed(self) -> bool:
        """Whether it is a classification."""
        return bool(self.labels)

    @property
    def why_open(self) -> str | None:
        """Why it is no classification; None if it is one."""
        if self.closed:
            return None
        counts = Counter(name.casefold() for name in self.names)
        if len(self.calls) < _FEWEST:
            return "too few calls to tell whether the answers are labels; give a longer log"
        if max(counts.values()) >= LEAST_NAMED * len(self.names):
            return "nearly every answer is the same one, so there is nothing to tell apart"
        if len(counts) > _FREE * len(self.names):
            return "most answers differ from all others, and a classifier cannot write"
        return (
            f"its answers repeat, but too few are names that are given {_TEXTS_PER_LABEL} times on average; "
            "a longer log may show labels"
        )

    @property
    def opening(self) -> str:
        """The beginning of the prompt, or of a text where there is no prompt."""
        return " ".join((self.instructions or self.before or self.texts[0]).split())

    @property
    def distinct(self) -> int:
        """The number of texts that differ by more than case and spacing."""
        return len({normalise(text) for text in self.texts})


def find_questions(calls: Sequence[Call]) -> list[Question]:
    """Return the questions of a log, those with the most calls first."""
    groups = _by_instructions(calls)
    found = [question for group in groups for question in _split(group)]
    return sorted(found, key=lambda question: -len(question.calls))


def _by_instructions(calls: Sequence[Call]) -> list[list[Call]]:
    """Group calls by what stands before the last message; by its beginning if that differs from call to call."""

    def grouped(length: int | None) -> list[list[Call]]:
        groups: defaultdict[str, list[Call]] = defaultdict(list)
        for call in calls:
            groups[re.sub(r"\d+", "0", call.instructions[:length])].append(call)
        return list(groups.values())

    groups = grouped(None)
    return groups if len(groups) <= max(_MOST_PROMPTS, _LEAST_SHARE * len(calls)) else grouped(_BEGINNING)


def _split(calls: Sequence[Call]) -> list[Question]:
    """Divide the calls of a group by the prompt within their message, and cut the texts out."""
    fewest = max(_FEWEST, _LEAST_SHARE * len(calls))
    heads = Counter(call.message[:_HEAD] for call in calls)
    common = {head for head, count in heads.items() if count >= fewest and len(head) == _HEAD}
    by_head: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        head = call.message[:_HEAD]
        by_head[head if head in common else ""].append(call)
    rest = by_head.pop("", [])
    found = []
    for members in by_head.values():
        if len(_before([call.message for call in members])) >= _HEAD:
            found.append(_question(members))
        else:  # texts that happen to begin alike
            rest += members
    return [*found, *([_question(rest)] if rest else [])]


def _question(calls: Sequence[Call]) -> Question:
    messages = [call.message for call in calls]
    before = _before(messages)
    after = _after([message[len(before) :] for message in messages])
    texts = tuple(message[len(before) : len(message) - len(after)].strip() for message in messages)
    names = tuple(stated_name(call.answer) for call in calls)
    labels = _labels(names)
    known = {label.casefold(): label for label in labels}
    chosen = tuple(
        known.get(name.casefold()) or _named(call.answer, labels) for call, name in zip(calls, names, strict=True)
    )
    return Question(calls[0].instructions, before, after, tuple(calls), texts, names, labels, chosen)


def _before(messages: Sequence[str]) -> str:
    """What all messages begin with, up to where the text visibly begins."""
    shared = _shared(messages)
    return shared[: max(shared.rfind(seam) for seam in _SEAMS_BEFORE) + 1]


def _after(messages: Sequence[str]) -> str:
    """What all messages end with, from where the text has visibly ended."""
    shared = _shared([message[::-1] for message in messages])[::-1]
    starts = [at for seam in _SEAMS_AFTER if (at := shared.find(seam)) >= 0]
    return shared[min(starts) :] if starts else ""


def _shared(messages: Sequence[str]) -> str:
    """What all messages begin with; nothing if they are all the same, for then no text stands out."""
    first, last = min(messages), max(messages)  # all others are between these two
    if first == last:
        return ""
    differ = (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differ, len(first))]


def _labels(names: Sequence[str]) -> tuple[str, ...]:
    """The names that nearly all answers choose among, each in its commonest spelling; none if there are too many."""
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name in names:
        spellings[name.casefold()][name] += 1
    least = max(2, _RARE * len(names))
    counts = {
        spelled.most_common(1)[0][0]: spelled.total()
        for name, spelled in spellings.items()
        if name and spelled.total() >= least and len(name) <= _LONGEST_NAME
    }
    few = 2 <= len(counts) <= min(MOST_LABELS, len(names) / _TEXTS_PER_LABEL)
    if not few or sum(counts.values()) < LEAST_NAMED * len(names):
        return ()
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _named(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names in a sentence."""
    index = named_label(answer, labels) if labels else None
    return None if index is None else labels[index]
