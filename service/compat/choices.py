"""What the formats of decision APIs share: a question must be the student's own, a choice among all of its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from export.bundle.format import Manifest
from service.compat.names import served, variant_in_body
from service.compat.scores import rounded
from service.errors import InvalidRequestError, NotFoundError
from service.inference.dataplane import Predictions
from service.inference.registry import Models, Variant
from service.settings import Settings

_SHOWN = 3
_SHOWN_NAME = 64


def stable(models: Models) -> Manifest:
    """Return the manifest that tells the labels; a candidate has the same. Raises NotReadyError."""
    return served(models)[Variant.STABLE]


def variant_named(models: Models, name: str) -> str | None:
    """Return the variant with this name, or None if any may answer, as for the name of a vendor's model.

    So clients need to change no more than the address. Raises NotReadyError.
    """
    try:
        return variant_in_body(models, name)
    except NotFoundError:
        return None


def refuse_other_kinds(question: Any) -> Any:
    """Return a question as it is, for the validator to read. Raises PydanticCustomError if it is not a choice."""
    kind = question.get("type") if isinstance(question, dict) else None
    if isinstance(kind, str) and kind != "choice":
        raise PydanticCustomError(
            "question_type",
            "a `{kind}` is not answered here: this model answers one question, a `choice` among its labels",
            {"kind": kind[:_SHOWN_NAME]},
        )
    return question


def check_questions(manifest: Manifest, settings: Settings, options: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Check that every question is the student's own. `options` has each question's place, and the options it lists.

    Raises InvalidRequestError for other options than the bundle's labels, whose order does not matter, for too many
    questions, and for a multi-label bundle, whose probabilities are not those of one choice.
    """
    if manifest.multi_label:
        raise InvalidRequestError("questions: this model gives a text several labels, not one choice; use /classify")
    if len(options) > settings.max_texts:
        raise InvalidRequestError(f"questions: at most {settings.max_texts} per request, got {len(options)}")
    labels = set(manifest.labels)
    for place, listed in options:
        if len(listed) != len(labels) or set(listed) != labels:
            raise InvalidRequestError(f"{place}: {_difference(manifest.labels, listed)}")


def decided(answer: Predictions) -> tuple[str, dict[str, float]]:
    """Return the label of the one text of a request, and the probability of each label.

    Raises InferenceFailedError for values that are not numbers.
    """
    (prediction,), labels = answer.predictions, answer.manifest.labels
    return labels[prediction.best], dict(zip(labels, rounded(prediction.probabilities), strict=True))


def _difference(labels: Sequence[str], listed: Sequence[str]) -> str:
    """Say how the options of a question differ from the labels, and what to do."""
    counts = Counter(listed)
    found = {
        "unknown": [option for option in counts if option not in labels],
        "missing": [label for label in labels if label not in counts],
        "repeated": [option for option, count in counts.items() if count > 1],
    }
    what = "; ".join(f"{name}: {_names(them)}" for name, them in found.items() if them)
    return f"list each label of this model once, and nothing else; GET /model has them ({what})"


def _names(them: Sequence[str]) -> str:
    shown = ", ".join(repr(one[:_SHOWN_NAME]) for one in them[:_SHOWN])
    return shown if len(them) <= _SHOWN else f"{shown} and {len(them) - _SHOWN} more"
