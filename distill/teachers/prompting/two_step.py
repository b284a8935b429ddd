"""Two-step questions for very many labels: which group, then which label in it. p(label) = p(group) p(label | group).

Pure functions: the questions, the choice of groups for the second step, and the resulting distribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill.teachers.errors import TeacherError
from distill.teachers.prompting.label_codes import Reading
from distill.teachers.prompting.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Choice:
    """A question: which of these options? `option_of` maps labels to options, if the options are not the labels."""

    options: tuple[str, ...]
    prompt: Prompt
    option_of: Mapping[str, str] | None = None

    def messages(self, text: str, order: Sequence[int]) -> list[dict[str, str]]:
        """Chat messages that ask the question for a text; code i stands for option `order[i]`."""
        return self.prompt.messages(text, self.options, order, self.option_of)


def check(groups: Mapping[str, Sequence[str]], labels: Sequence[str]) -> None:
    """Raise TeacherError unless every label is in exactly one group; the message names the others."""
    times = Counter(label for members in groups.values() for label in members)
    wrong = [
        ("in no group", [label for label in labels if not times[label]]),
        ("in more than one place", [label for label, count in times.items() if count > 1]),
        ("not labels of the task", sorted(times.keys() - set(labels))),
        ("groups without labels", [name for name, members in groups.items() if not members]),
    ]
    if found := "; ".join(f"{what}: {names[:5]}" for what, names in wrong if names):
        raise TeacherError(f"teacher.groups: every label belongs to exactly one group; {found}")
    if len(groups) < 2:
        raise TeacherError("teacher.groups: give at least two groups, or none")


def between(groups: Mapping[str, Sequence[str]], prompt: Prompt) -> Choice:
    """The question for the group. A group without a description is described by its labels."""
    listed = {name: ", ".join(members) for name, members in groups.items()}
    described = {name: prompt.descriptions.get(name, members) for name, members in listed.items()}
    option_of = {label: name for name, members in groups.items() for label in members}
    return Choice(tuple(groups), prompt.model_copy(update={"descriptions": described}), option_of)


def within(members: Sequence[str], prompt: Prompt) -> Choice:
    """The question for the label in a group."""
    return Choice(tuple(members), prompt, {label: label for label in members})


def to_expand(mass: npt.NDArray[np.floating], sizes: Sequence[int], epsilon: float) -> list[int]:
    """The groups to ask within, by index, the heaviest first, until the others have a mass below `epsilon` in total.

    `mass` and `sizes` have the probability and the number of labels of each group. Groups of one label are left out.
    """
    order = [int(group) for group in np.argsort(-mass, kind="stable") if sizes[group] > 1]
    rest = np.cumsum(mass[order][::-1])[::-1]  # what is left before each is expanded
    return [group for group, left in zip(order, rest, strict=True) if left >= epsilon]


@dataclass(frozen=True, slots=True)
class Combined:
    """A distribution over K labels, the mass on codes, and a bound on its error in total variation."""

    probabilities: npt.NDArray[np.float32]
    covered: float
    bound: float


def combine(
    outer: Reading, inner: Mapping[int, Reading], members: Sequence[npt.NDArray[np.intp]], count: int
) -> Combined:
    """Combine the distribution over groups with those within the expanded groups.

    `members[g]` has the labels of group g, by index. The mass of a group that was not expanded is spread evenly over
    its labels and added to the bound, as is the unlisted mass of each reading.
    """
    mass = outer.probabilities.astype(np.float64)
    mass /= mass.sum()
    probabilities = np.zeros(count)
    bound, seen, covered = outer.bound, 0.0, 0.0
    for group, labels in enumerate(members):
        reading = inner.get(group)
        if reading is None:
            probabilities[labels] = mass[group] / len(labels)
            bound += mass[group] if len(labels) > 1 else 0.0
            continue
        probabilities[labels] = mass[group] * reading.probabilities
        bound += mass[group] * reading.bound
        seen += mass[group]
        covered += mass[group] * reading.covered
    inside = covered / seen if seen > 0 else 1.0
    return Combined(probabilities.astype(np.float32), outer.covered * inside, min(1.0, float(bound)))
