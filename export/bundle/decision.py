"""The decision of an application: what it does about a text, given the probabilities of the text's labels.

Several labels may lead to one action; below a threshold, or far from what the student was trained on, a text may go to
a human; a rare mistake may cost more than a frequent one. The rule is the bundle's file `decision.npz`, so that the
service, the offline report and the live gap apply the same one; bundles of tasks without a `decision` have none.
`export.fit_decision` makes it; here it is only applied, with numpy.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from distill.abstain import ABSTAIN
from distill.errors import one_line
from export.bundle.format import Bundle, BundleError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

DECISION = "decision.npz"


@dataclass(frozen=True, eq=False)
class Novelty:
    """How far a text is from the training texts: the cosine distance to the nearest prototype, in [0, 2].

    `centre` [d] is the mean embedding of the training texts and `prototypes` [P, d] unit vectors, the mean directions
    from it to the texts of each label. A text farther than `cutoff` is novel. Subtracting the centre matters: without
    it the embeddings of a static student are all nearly parallel.
    """

    centre: Floats
    prototypes: Floats
    cutoff: float

    def distances(self, embeddings: Floats) -> Floats:
        """Return the distance of embeddings [..., d]: an array [...]. An embedding at the centre has the distance 1."""
        offsets = embeddings - self.centre
        lengths = np.sqrt(np.einsum("...d,...d->...", offsets, offsets))
        nearest = (offsets @ self.prototypes.T).max(-1)
        distances: Floats = 1 - nearest / np.maximum(lengths, 1e-12)
        return distances

    @property
    def problem(self) -> str | None:
        """What does not fit; None where all does."""
        fits = self.centre.ndim == 1 and self.prototypes.ndim == 2 and len(self.prototypes) > 0
        if not fits or self.prototypes.shape[1:] != self.centre.shape:
            return "'prototypes' must be vectors as long as 'centre'"
        finite = np.isfinite(self.centre).all() and np.isfinite(self.prototypes).all() and np.isfinite(self.cutoff)
        return None if finite else "'centre', 'prototypes' and 'cutoff' must be finite numbers"

    def novel(self, embeddings: Floats) -> Flags:
        """Return whether texts with these embeddings, [..., d], are novel: an array [...]."""
        flags: Flags = self.distances(embeddings) > self.cutoff
        return flags


@dataclass(frozen=True, eq=False)
class Decision:
    """A rule from the probabilities of K labels to one of A `actions`.

    `action_of` [K] is the action that each label leads to: an index below M, where the first M actions are those that
    labels lead to. The probability of an action is the sum over its labels. One of two rules applies:

    - `thresholds` [M], in (0, 1]: the action whose probability is the greatest multiple of its threshold is taken if it
      reaches the threshold, else the action `otherwise`.
    - `costs` [M, A]: the cost of each action where another one would have been right; the action of least expected cost
      is taken (Elkan 2001, The foundations of cost-sensitive learning).

    With `novelty`, a text far from the training texts gets the action ABSTAIN, which must be among the actions.
    """

    actions: tuple[str, ...]
    action_of: Ints
    thresholds: Floats | None = None
    otherwise: int = -1
    costs: Floats | None = None
    novelty: Novelty | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless the parts fit together."""
        if problem := self._problem():
            raise ValueError(problem)

    @cached_property
    def groups(self) -> int:
        """The number of actions that labels lead to, M."""
        return int(self.action_of.max()) + 1

    @cached_property
    def abstain(self) -> int | None:
        """The index of the action ABSTAIN; None where a human never decides."""
        return self.actions.index(ABSTAIN) if ABSTAIN in self.actions else None

    def likely(self, probabilities: Floats) -> Floats:
        """Return the probabilities [..., M] of the actions, for those of the labels, [..., K]."""
        return probabilities if self._members is None else probabilities @ self._members

    def choose(self, probabilities: Floats, novel: Flags | bool | None = None) -> Ints:
        """Return the indices [...] of the actions for probabilities [..., K]; `novel` [...] says which texts are."""
        likely = self.likely(probabilities)
        if self.costs is not None:
            chosen: Ints = (likely @ self.costs).argmin(-1)
        else:
            assert self.thresholds is not None, "a rule has thresholds or costs"
            ratios = likely / self.thresholds
            chosen = np.where(ratios.max(-1) >= 1, ratios.argmax(-1), self.otherwise)
        return chosen if novel is None or self.abstain is None else np.where(novel, self.abstain, chosen)

    def novel(self, embeddings: Floats) -> Flags | None:
        """Return whether texts with these embeddings, [..., d], are novel; None for a rule without novelty."""
        return None if self.novelty is None else self.novelty.novel(embeddings)

    def is_novel(self, embedding: Floats) -> bool | None:
        """Return whether one text with this embedding [d] is novel; None for a rule without novelty."""
        return None if self.novelty is None else bool(self.novelty.novel(embedding))

    def act(self, probabilities: Floats, embedding: Floats) -> str:
        """Return the action for one text, from its probabilities [K] and its embedding [d]."""
        if self.novelty is not None and self.novelty.novel(embedding):
            return ABSTAIN
        return self.actions[int(self.choose(probabilities))]

    @cached_property
    def _members(self) -> Floats | None:
        """Whether a label leads to an action, [K, M]; None where each label is an action of its own."""
        if np.array_equal(self.action_of, np.arange(len(self.action_of))):
            return None
        members: Floats = (self.action_of[:, None] == np.arange(self.groups)).astype(np.float64)
        return members

    @classmethod
    def open(cls, bundle: Bundle) -> Self | None:
        """Read the decision of a bundle, None if it has none. Raises BundleError when the file is not one for it."""
        if DECISION not in bundle.manifest.files:
            return None
        path = bundle.path / DECISION
        try:
            with np.load(path, allow_pickle=False) as stored:
                decision = cls._of(dict(stored))
            if len(decision.action_of) != len(bundle.manifest.labels) or bundle.manifest.multi_label:
                raise ValueError(f"it is for {len(decision.action_of)} labels of which a text has one")
        except Exception as error:  # numpy and zipfile raise many classes with no common base
            raise BundleError(f"{path}: not a decision ({one_line(error)}); export the bundle again") from error
        return decision

    @classmethod
    def _of(cls, stored: dict[str, npt.NDArray[Any]]) -> Self:
        novelty = None
        if "prototypes" in stored:
            novelty = Novelty(stored["centre"], stored["prototypes"], float(stored["cutoff"]))
        return cls(
            tuple(map(str, stored["actions"].tolist())),
            stored["action_of"],
            stored.get("thresholds"),
            int(stored["otherwise"]),
            stored.get("costs"),
            novelty,
        )

    def to_bytes(self) -> bytes:
        """Return the bytes of `decision.npz`."""
        arrays: dict[str, Any] = {"actions": self.actions, "action_of": self.action_of, "otherwise": self.otherwise}
        arrays |= {name: value for name in ("thresholds", "costs") if (value := getattr(self, name)) is not None}
        if self.novelty is not None:
            arrays |= vars(self.novelty)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def _problem(self) -> str | None:
        """Return what does not fit; None where all does."""
        of, actions = self.action_of, self.actions
        if of.ndim != 1 or of.dtype.kind != "i" or not set(of.tolist()) == set(range(self.groups)):
            return "'action_of' must be indices of actions, none left out"
        if not self.groups <= len(actions) == len(set(actions)):
            return f"'actions' must be {self.groups} different names or more"
        if (self.thresholds is None) == (self.costs is None):
            return "expected either 'thresholds' or 'costs'"
        limits, costs = self.thresholds, self.costs
        if limits is not None and not (limits.shape == (self.groups,) and ((limits > 0) & (limits <= 1)).all()):
            return f"'thresholds' must be {self.groups} numbers above 0, up to 1"
        if limits is not None and not 0 <= self.otherwise < len(actions):
            return "'otherwise' must be the index of an action"
        if costs is not None and not (costs.shape == (self.groups, len(actions)) and np.isfinite(costs).all()):
            return f"'costs' must be {self.groups} × {len(actions)} finite numbers"
        if self.novelty is not None:
            return f"a rule with novelty needs the action {ABSTAIN!r}" if self.abstain is None else self.novelty.problem
        return None
