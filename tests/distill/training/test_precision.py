"""Matrix products are computed in the precision that the task asks for; everything else stays float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

from distill.sections import Optimisation, Precision
from distill.training import precision
from distill.training.loop import train

ROWS = [[1, 2], [3, 4], [1, 4], [3, 2]]
TARGETS = np.eye(2)[[0, 1, 0, 1]]


class Spy(nn.Module):
    """An embedding and a linear layer, which keep the types of their logits in training and for scores.

    They also keep whether attention may be fused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)
        self.types: set[torch.dtype] = set()
        self.scored: set[torch.dtype] = set()
        self.fused: set[bool] = set()

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.words(ids).mean(1)
        logits = self.head(embedding)
        if self.training:
            self.types.add(logits.dtype)
            self.fused.add(torch.backends.cuda.flash_sdp_enabled())  # of CPUs, too
        else:
            self.scored.add(logits.dtype)
        return logits, embedding


def trained(wanted: Precision) -> tuple[Spy, set[torch.dtype]]:
    """Return a trained module, and the types that the loss and the validation score saw."""
    module, seen = Spy(), set()

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.add(logits.dtype)
        return functional.cross_entropy(logits, target)

    def score(one: nn.Module) -> float:
        one.eval()
        seen.add(one(torch.tensor(ROWS), torch.ones(4, 2))[0].dtype)
        return 1.0

    train(module, ROWS, TARGETS, loss, score, Optimisation(epochs=1, batch_size=2, precision=wanted), "training")
    return module, seen


@pytest.mark.parametrize(
    ("wanted", "amx", "computed"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_products_have_the_wanted_precision_and_the_rest_is_float32(
    monkeypatch: pytest.MonkeyPatch, wanted: Precision, amx: bool, computed: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    module, seen = trained(wanted)
    assert module.types == {computed}
    assert module.fused == {computed == torch.float32}
    assert seen == {torch.float32}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configure bfloat16 with accelerate, whose state is that of the process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("wanted", "computed"), [("auto", torch.bfloat16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_only_auto_takes_what_is_configured_with_accelerate(
    monkeypatch: pytest.MonkeyPatch, wanted: Precision, computed: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    module, _ = trained(wanted)
    assert module.types == {computed}
    assert module.fused == {computed == torch.float32}
    assert module.scored == {torch.float32}
    assert module(torch.tensor(ROWS), torch.ones(4, 2))[0].dtype == torch.float32


def test_a_torch_that_cannot_tell_is_taken_for_one_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not precision.has_amx()
