"""A decision that says too little, too much, or names what is not there is refused, naming its key."""

import pytest
import yaml

from distill.decision import Abstain, Costs, Threshold
from distill.errors import TaskError
from distill.task import load_task


@pytest.fixture
def load(tmp_path):
    """`load(labels=[...], **decision)`: the decision of a task file."""

    def make(labels=("a", "b", "c"), **decision):
        task = {
            "name": "desk",
            "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}},
            "teacher": {"kind": "local", "model": "x"},
            "students": {"words": {"family": "static", "model": "x"}},
            **({"labels": list(labels)} if labels else {}),
            "decision": decision,
        }
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        return load_task(tmp_path / "task.yaml").decision

    return make


def test_each_kind_is_typed(load):
    assert load(kind="threshold", at=0.8, per_action={"b": 0.3}, otherwise="c") == Threshold(
        kind="threshold", at=0.8, per_action={"b": 0.3}, otherwise="c"
    )
    assert load(kind="abstain", precision=0.95, novelty=0.99) == Abstain(kind="abstain", precision=0.95, novelty=0.99)
    grouped = load(kind="costs", map={"x": ["a", "c"], "y": ["b"]}, costs={"x": {"y": 7}}, abstain=0.2)
    assert grouped == Costs(kind="costs", map={"x": ("a", "c"), "y": ("b",)}, costs={"x": {"y": 7.0}}, abstain=0.2)


def test_labels_that_the_task_does_not_list_are_checked_with_the_data(load):
    assert load(labels=None, kind="threshold", at=0.8, otherwise="anything").otherwise == "anything"


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"kind": "guess"}, "'guess'"),
        ({"at": 0.5}, "the key 'kind' is missing"),
        ({"kind": "threshold"}, "decision.at: missing"),
        ({"kind": "threshold", "at": 0}, "decision.at: Input should be greater than 0"),
        ({"kind": "threshold", "at": 0.5, "per_action": {"d": 0.5}}, "decision.per_action: 'd' is no label"),
        (
            {"kind": "threshold", "at": 0.5, "otherwise": "d"},
            "otherwise: 'd' is no label; expected one of a, b, c",
        ),
        ({"kind": "threshold", "at": 0.5, "otherwise": "a", "novelty": 0.9}, "this rule never does"),
        ({"kind": "abstain"}, "exactly one of `below`, `coverage` and `precision`"),
        ({"kind": "abstain", "below": 0.5, "coverage": 0.9}, "exactly one of `below`, `coverage` and `precision`"),
        ({"kind": "abstain", "below": 0.5, "novelty": 1}, "decision.novelty: Input should be less than 1"),
        ({"kind": "costs", "novelty": 0.9}, "this rule never does"),
        ({"kind": "costs", "costs": {"a": {"d": 1}}}, "decision.costs.a: 'd' is no label"),
        ({"kind": "costs", "costs": {"d": {"a": 1}}}, "decision.costs: 'd' is no label"),
        (
            {"kind": "costs", "costs": {"a": {"b": -1}}},
            "decision.costs.a.b: Input should be greater than",
        ),
        ({"kind": "costs", "map": {"x": ["a", "b"]}}, "decision.map: the label 'c' is in it 0 times"),
        ({"kind": "costs", "map": {"x": ["a", "b", "c"], "y": ["a"]}}, "decision.map: the label 'a' is in it 2 times"),
        ({"kind": "costs", "map": {"x": ["a", "b", "c", "d"]}}, "decision.map: 'd' is no label of the task"),
        ({"kind": "costs", "map": {"abstain": ["a"], "x": ["b", "c"]}}, "give the action another name"),
        ({"kind": "costs", "map": {"x": ["a"], "y": ["b", "c"]}, "costs": {"a": {"x": 1}}}, "'a' is no action"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(load, decision, message):
    with pytest.raises(TaskError) as refused:
        load(**decision)
    assert "task.yaml: decision" in str(refused.value)
    assert message in str(refused.value)
