"""A decision does what its rule says, is read as it was written, and is refused when it is damaged."""

import numpy as np
import pytest

from export.bundle.decision import DECISION, Decision, Novelty
from export.bundle.format import BundleError
from export.bundle.verify import verify
from tests.support.tiny_bundle import rewritten

CERTAIN, LIKELY, SPLIT = [0.9, 0.05, 0.05, 0.0], [0.6, 0.3, 0.1, 0.0], [0.35, 0.2, 0.2, 0.25]
NOVELTY = Novelty(np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]]), 0.1)
NAMES = ("a", "b", "c", "d")


def threshold(limits, *, otherwise="abstain", **more):
    actions = (*NAMES, "abstain")
    return Decision(actions, np.arange(4), np.array(limits), actions.index(otherwise), **more)


def chosen(decision, *rows):
    return [decision.actions[action] for action in decision.choose(np.array(rows, dtype=np.float32))]


def test_a_label_is_taken_from_its_threshold_on_and_a_human_asked_below_it():
    assert chosen(threshold([0.6] * 4), CERTAIN, LIKELY, SPLIT) == ["a", "a", "abstain"]
    assert chosen(threshold([0.6] * 4, otherwise="d"), CERTAIN, SPLIT) == ["a", "d"]


def test_a_label_of_a_low_threshold_is_taken_before_a_more_probable_one():
    assert chosen(threshold([0.6, 0.2, 0.6, 0.6]), CERTAIN, LIKELY, SPLIT) == ["a", "b", "b"]


def test_labels_of_one_action_add_up():
    grouped = Decision(("ab", "cd", "abstain"), np.array([0, 0, 1, 1]), np.array([0.5, 0.5]), 2)
    assert chosen(grouped, LIKELY, [0.3, 0.1, 0.3, 0.3]) == ["ab", "cd"]


def test_the_action_of_least_expected_cost_is_taken():
    costs = 1.0 - np.eye(2)
    costs[1, 0] = 20.0  # to do a where b would have been right
    decision = Decision(("a", "b", "abstain"), np.arange(2), costs=np.column_stack([costs, [0.3, 0.3]]))
    #   a costs 0.2, then 1 and 10; b 0.99, 0.95, 0.5; to ask 0.3
    assert chosen(decision, [0.99, 0.01], [0.95, 0.05], [0.05, 0.95]) == ["a", "abstain", "b"]


def test_a_text_far_from_all_prototypes_is_left_to_a_human():
    decision = threshold([0.5] * 4, novelty=NOVELTY)
    embeddings = np.array([[5.0, 0.1], [0.0, 0.3], [1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    assert NOVELTY.distances(embeddings) == pytest.approx([0.0002, 0, 0.2929, 1, 1], abs=1e-4)
    novel = decision.novel(embeddings)
    assert novel.tolist() == [False, False, True, True, True]
    actions = decision.choose(np.array([CERTAIN] * 5), novel)
    assert [decision.actions[action] for action in actions] == ["a", "a", "abstain", "abstain", "abstain"]
    assert decision.act(np.array(CERTAIN), embeddings[2]) == "abstain"


@pytest.mark.parametrize("novelty", [None, NOVELTY])
def test_one_text_is_decided_as_among_others(novelty):
    generator = np.random.default_rng(0)
    rows, embeddings = generator.dirichlet(np.ones(4), size=400), generator.normal(size=(400, 2)).astype(np.float32)
    decision = threshold([0.5, 0.3, 0.6, 0.4], novelty=novelty)
    together = decision.choose(rows, decision.novel(embeddings))
    alone = [decision.act(row, embedding) for row, embedding in zip(rows, embeddings, strict=True)]
    assert [decision.actions[action] for action in together] == alone
    assert set(alone) == {*NAMES, "abstain"}


@pytest.mark.parametrize(
    "decision",
    [
        threshold([0.5, 0.3, 0.7, 0.4]),
        threshold([0.2] * 4, novelty=Novelty(np.zeros(8), np.eye(8), 0.2)),
        Decision(("ab", "cd", "abstain"), np.array([0, 0, 1, 1]), costs=np.array([[0.0, 3.0, 0.1], [1.0, 0.0, 0.1]])),
    ],
    ids=["thresholds", "novelty", "costs"],
)
def test_a_bundle_gives_the_decision_that_was_written(decision, tiny_bundle, tmp_path):
    bundle = rewritten(tiny_bundle, tmp_path / "bundle", {DECISION: decision.to_bytes()})
    assert verify(bundle.path).manifest.version != tiny_bundle.manifest.version
    read = Decision.open(bundle)
    rows = np.random.default_rng(1).dirichlet(np.ones(4), size=300)
    embeddings = np.random.default_rng(2).normal(size=(300, 8))
    assert read.actions == decision.actions
    assert (
        read.choose(rows, read.novel(embeddings)).tolist() == decision.choose(rows, decision.novel(embeddings)).tolist()
    )


def test_a_bundle_without_a_decision_has_none(tiny_bundle):
    assert Decision.open(tiny_bundle) is None


def test_a_decision_that_does_not_fit_the_bundle_is_refused(tiny_bundle, tmp_path):
    for_two = Decision(("a", "b"), np.arange(2), np.array([0.5, 0.5]), 0)
    wide = threshold([0.5] * 4, novelty=Novelty(np.zeros(9), np.eye(9), 0.2))
    cases = {
        b"": "not a decision",
        for_two.to_bytes(): "2 labels",
        wide.to_bytes(): "embeddings of 9 numbers, and the graph gives 8",
    }
    for number, (content, message) in enumerate(cases.items()):
        bundle = rewritten(tiny_bundle, tmp_path / str(number), {DECISION: content})
        with pytest.raises(BundleError, match=message) as refused:
            verify(bundle.path)
        assert DECISION in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": np.array([0.5, 0.0, 1, 1])}, "'thresholds' must be 4 numbers above 0"),
        ({"thresholds": np.array([0.5, np.nan, 1, 1])}, "'thresholds' must be 4 numbers above 0"),
        ({"thresholds": np.array([0.5])}, "'thresholds' must be 4"),
        ({"thresholds": None}, "either 'thresholds' or 'costs'"),
        ({"otherwise": 5}, "'otherwise' must be the index"),
        ({"action_of": np.array([0, 1, 2, 4])}, "'action_of' must be indices"),
        ({"actions": ("a", "b", "c")}, "'actions' must be 4"),
        ({"actions": (*NAMES, "a")}, "'actions' must be 4"),
        ({"actions": NAMES, "otherwise": 0, "novelty": NOVELTY}, "needs the action 'abstain'"),
        ({"novelty": Novelty(np.zeros(3), np.eye(2), 0.1)}, "as long as 'centre'"),
        ({"novelty": Novelty(np.zeros(2), np.eye(2), np.nan)}, "finite"),
        ({"thresholds": None, "costs": np.ones((4, 4))}, "'costs' must be 4 × 5"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    parts = {"actions": (*NAMES, "abstain"), "action_of": np.arange(4), "thresholds": np.full(4, 0.5), "otherwise": 4}
    with pytest.raises(ValueError, match=message):
        Decision(**{**parts, **changes})
