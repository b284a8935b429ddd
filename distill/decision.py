"""The section `decision` of a task: what the application does about a text, given the probabilities of its labels.

These are the rules as a person writes them. `export.fit_decision` chooses on validation what they leave open, and
`export.bundle.decision` applies the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.abstain import ABSTAIN
from distill.sections import Section

Share = Annotated[float, Field(gt=0, lt=1)]
Cost = Annotated[float, Field(ge=0)]


class _Rule(Section):
    """What all rules share.

    `map` groups labels to actions, `{action: [label, ...]}`; without it each label is an action. `novelty` is the share
    of validation texts that count as near to the training texts; one that is farther away than they are is left to a
    human.
    """

    map: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None = Field(default=None, min_length=1)
    novelty: Share | None = None

    def abstains(self) -> bool:
        """Whether the rule can leave a text to a human."""
        return True

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield each action that the rule names, with the key under which it does."""
        yield from ()

    @model_validator(mode="after")
    def _novelty_needs_a_human(self) -> _Rule:
        if self.novelty is not None and not self.abstains():
            raise ValueError("`novelty` leaves texts to a human, and this rule never does; let it, or remove `novelty`")
        return self


class Threshold(_Rule):
    """Take the action whose probability is the greatest multiple of its threshold, if it reaches the threshold.

    `at` is the threshold, `per_action` that of single actions. A text that reaches none gets the action `otherwise`,
    which is left to a human by default.
    """

    kind: Literal["threshold"]
    at: float = Field(gt=0, le=1)
    per_action: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    otherwise: str = ABSTAIN

    def abstains(self) -> bool:
        """Whether a text that reaches no threshold is left to a human."""
        return self.otherwise == ABSTAIN

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield the actions of `per_action` and `otherwise`."""
        yield from (("per_action", action) for action in self.per_action)
        if not self.abstains():
            yield "otherwise", self.otherwise


class Abstain(_Rule):
    """Take the most probable action; leave a text to a human where its probability is too low.

    The cut-off is `below`, or is chosen on validation texts that are not novel: so that the share `coverage` of them is
    decided, or so that as many are decided as possible while those agree with the teacher in at least the share
    `precision`.
    """

    kind: Literal["abstain"]
    below: Share | None = None
    coverage: Share | None = None
    precision: Share | None = None

    @model_validator(mode="after")
    def _one_cutoff(self) -> Abstain:
        if sum(given is not None for given in (self.below, self.coverage, self.precision)) != 1:
            raise ValueError("give exactly one of `below`, `coverage` and `precision`")
        return self


class Costs(_Rule):
    """Take the action of least expected cost.

    `costs` holds what an action costs where another one would have been right: `{right: {taken: cost}}`. What is not
    listed costs 1, and the right action 0. `abstain` is the cost of leaving a text to a human; without it that never
    happens.
    """

    kind: Literal["costs"]
    costs: dict[str, dict[str, Cost]] = Field(default_factory=dict)
    abstain: Cost | None = None

    def abstains(self) -> bool:
        """Whether leaving a text to a human has a cost."""
        return self.abstain is not None

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield the actions of `costs`."""
        for right, row in self.costs.items():
            yield "costs", right
            yield from ((f"costs.{right}", taken) for taken in row)


Rule = Threshold | Abstain | Costs
Decision = Annotated[Rule, Field(discriminator="kind")]


def require_names(rule: Rule, labels: Sequence[str]) -> None:
    """Raise ValueError, which begins with the key, unless a rule fits the task's labels and names only its actions."""
    actions = list(rule.map or labels)
    if rule.map is not None:
        mapped = Counter(label for group in rule.map.values() for label in group)
        if unknown := sorted(set(mapped) - set(labels)):
            raise ValueError(f"decision.map: {unknown[0]!r} is no label of the task; correct or remove it")
        if wrong := [label for label in labels if mapped[label] != 1]:
            raise ValueError(f"decision.map: the label {wrong[0]!r} is in it {mapped[wrong[0]]} times; list each once")
    if ABSTAIN in actions:
        raise ValueError(f"decision.map: {ABSTAIN!r} means to leave a text to a human; give the action another name")
    for key, name in rule.named():
        if name not in actions:
            kind = "action" if rule.map is not None else "label"
            raise ValueError(f"decision.{key}: {name!r} is no {kind}; expected one of {', '.join(actions)}")
