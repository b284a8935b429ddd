"""Ctrl-C in the middle of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from distill.training import loop


@contextmanager
def epochs(interrupted: int | None = None) -> Iterator[list[float]]:
    """Give a list of the losses of the epochs that are trained within; that of this number is interrupted."""
    trained: list[float] = []
    epoch = loop._epoch

    def counted(*arguments: Any) -> float:
        value = epoch(*arguments)
        if len(trained) + 1 == interrupted:
            raise KeyboardInterrupt
        trained.append(value)
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_epoch", counted)
        yield trained
