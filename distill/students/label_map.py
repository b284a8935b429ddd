"""Read the labels of a classifier of transformers from its configuration, in the order of its logits.

transformers itself accepts a map that has gaps, begins at 1 or gives two labels one name; its answers then have wrong
names, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.data.values import label_of, spelled
from distill.errors import DistillError

_MULTI_LABEL = "multi_label_classification"
_SHOWN = 8


def labels_of(config: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Return the K labels of a `config.json`, in the order of the logits.

    Raises DistillError, naming `model` and the key, unless `id2label` gives each of 0 to K-1 a name of its own,
    `num_labels` and `label2id` agree with it, and the classifier gives a distribution.
    """
    found = config.get("id2label")
    if not found:
        raise _refusal(model, "its configuration names no labels (id2label); set them, or give it a `fit`")
    if not isinstance(found, dict):
        raise _refusal(model, f'id2label is a {type(found).__name__}; write it as {{"0": "first", "1": "second", …}}')
    names = _in_order(found, model)
    labels = tuple(_name(names[place], place, model) for place in range(len(names)))
    if all(label == f"LABEL_{place}" for place, label in enumerate(labels)):
        raise _refusal(model, "its configuration names no labels (id2label); set them, or give it a `fit`")
    for place, label in enumerate(labels):
        if (first := labels.index(label)) != place:
            raise _refusal(model, f"id2label calls both {first} and {place} {label!r}; give each a name of its own")
    _check_others(config, labels, model)
    return labels


def is_multi_label(config: Mapping[str, Any]) -> bool:
    """Whether a classifier decides on each label by a sigmoid, so that a text may have several labels or none."""
    return config.get("problem_type") == _MULTI_LABEL


def _in_order(found: dict[Any, Any], model: str) -> dict[int, Any]:
    """Return the names by number. Raises DistillError unless the numbers are 0 to K-1."""
    try:
        names = {int(key): name for key, name in found.items()}
    except (TypeError, ValueError):
        names = {}
    if len(names) != len(found) or set(names) != set(range(len(names))):
        keys = ", ".join(map(str, [*found][:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
        raise _refusal(
            model,
            f"id2label numbers its {len(found)} labels {keys}; number them 0 to {len(found) - 1}, as the logits are",
        )
    return names


def _name(value: Any, place: int, model: str) -> str:
    """Return a label's name, spelled like labels in data: a number or boolean becomes text."""
    try:
        name = label_of(spelled(value))
    except ValueError:
        name = None
    if name is None:
        raise _refusal(model, f"id2label names the label {place} {value!r}; give it a name")
    return name


def _check_others(config: Mapping[str, Any], labels: tuple[str, ...], model: str) -> None:
    """Raise DistillError when other keys of the configuration contradict the labels."""
    count = config.get("num_labels")
    if count is not None and count != len(labels):
        raise _refusal(
            model, f"num_labels is {count!r}, but id2label names {len(labels)}; correct the one that is wrong"
        )
    # With other names, such as LABEL_0, it is a default that transformers left behind.
    other = config.get("label2id") or {}
    if not isinstance(other, dict):
        raise _refusal(model, f"label2id is a {type(other).__name__}; leave it out, id2label is enough")
    for name, place in other.items():
        if name in labels and labels.index(name) != place and str(labels.index(name)) != str(place):
            raise _refusal(
                model,
                f"label2id says {name!r} is {place}, id2label {labels.index(name)}; correct the one that is wrong",
            )
    if config.get("problem_type") == "regression":
        raise _refusal(model, "problem_type is regression; a classifier gives probabilities")
    if len(labels) == 1 and not is_multi_label(config):
        raise _refusal(
            model, f"num_labels is 1, which leaves no choice; if it is a yes or no, set problem_type to {_MULTI_LABEL}"
        )


def _refusal(model: str, problem: str) -> DistillError:
    return DistillError(f"model {model}: {problem}")
