"""Parts of task files, for keyword rows with the columns `text` and `label`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LABELLED: dict[str, Any] = {
    **{name: {"path": f"{name}.csv", "label": "label"} for name in ("train", "test")},
    "validation": 0.2,
}
"""The section `data` of a task with gold labels."""


def optimisation(epochs: int, learning_rate: float, **more: Any) -> dict[str, Any]:
    """Return a section `optimisation`."""
    return {"epochs": epochs, "learning_rate": learning_rate, **more}


def encoder(model: Path, epochs: int, **more: Any) -> dict[str, Any]:
    """Return a student of two layers of an encoder."""
    shape = {"family": "encoder", "model": str(model), "layers": [0, 2], "max_tokens": 32}
    return {**shape, "optimisation": optimisation(epochs, 3e-3, **more)}


def static(model: Path, epochs: int, **more: Any) -> dict[str, Any]:
    """Return a static student."""
    shape = {"family": "static", "model": str(model), "hidden": 16, "max_tokens": 32}
    return {**shape, "optimisation": optimisation(epochs, 1e-2, **more)}
