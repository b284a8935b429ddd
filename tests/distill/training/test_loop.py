"""The loop trains, repeats itself for a seed, keeps the best epoch, stops early, and refuses a loss that is none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import DistillError
from distill.sections import Optimisation
from distill.stages import Stage
from distill.students.encoder import build as build_encoder
from distill.students.student import predict
from distill.training import loop
from distill.training.checkpoint import Checkpoint
from distill.training.course import History
from distill.training.loop import LengthBuckets, _warmup_then_linear, on_every_process, train

GENERATOR = np.random.default_rng(0)
CLASSES = GENERATOR.integers(0, 2, size=120)
# Ids 1 to 5 speak for the first class, 6 to 10 for the second.
ROWS = [list(map(int, GENERATOR.integers(1 + 5 * c, 6 + 5 * c, size=GENERATOR.integers(2, 9)))) for c in CLASSES]
TARGETS = np.eye(2)[CLASSES]


class Words(nn.Module):
    """A mean of embeddings and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        weights = mask.unsqueeze(-1).float()
        embedding = (self.words(ids) * weights).sum(1) / weights.sum(1)
        return self.head(self.dropout(embedding)), embedding


def accuracy(module: nn.Module) -> float:
    return float((predict(module, ROWS).argmax(1) == CLASSES).mean())


def run(
    module: nn.Module,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    score: Callable[[nn.Module], float] = accuracy,
    checkpoint: Checkpoint | None = None,
    **optimisation: Any,
) -> History:
    given = {"epochs": 5, "batch_size": 16, "learning_rate": 0.05, **optimisation}
    return train(module, ROWS, TARGETS, loss, score, Optimisation(**given), "training", checkpoint)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def scripted(scores: Sequence[float]) -> tuple[Callable[[nn.Module], float], list[dict[str, Tensor]]]:
    """A score that follows a script, and the weights it was shown."""
    seen: list[dict[str, Tensor]] = []

    def score(module: nn.Module) -> float:
        seen.append(weights(module))
        return scores[len(seen) - 1]

    return score, seen


def test_the_loss_falls_and_the_task_is_learned():
    module = Words()
    before = accuracy(module)
    history = run(module)
    assert list(history.losses) == sorted(history.losses, reverse=True)
    assert history.losses[-1] < 0.3 * history.losses[0]
    assert accuracy(module) > 0.95 > before
    assert accuracy(module) == max(history.scores)
    assert not module.training


def test_a_seed_repeats_everything_whatever_was_drawn_before():
    results = []
    for seed in (3, 3, 4):
        module = Words()
        torch.rand(len(results) + 1)
        history = run(module, epochs=2, seed=seed)
        results.append((history, weights(module)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert not same(results[0][1], results[2][1])


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.9, 0.2), 1), ((0.9, 0.1, 0.2), 0), ((0.1, 0.2, 0.9), 2), ((0.5, 0.9, 0.9), 2)]
)
def test_the_best_epoch_is_kept(scores, best):
    module = Words()
    score, seen = scripted(scores)
    history = run(module, score=score, epochs=3)
    assert (history.best, history.scores) == (best, scores)
    assert same(weights(module), seen[best])
    assert not same(seen[0], seen[1])


@pytest.mark.parametrize(
    ("scores", "patience", "epochs"),
    [
        ((0.5,) * 6, 2, 3),
        ((0.5,) * 6, 0, 6),
        ((0.1, 0.2, 0.3, 0.2, 0.1, 0.1), 2, 5),
        ((0.1, 0.2, 0.1, 0.3, 0.1, 0.1), 2, 6),
    ],
)
def test_patience_counts_the_epochs_without_a_better_score(scores, patience, epochs):
    score, seen = scripted(scores)
    history = run(Words(), score=score, epochs=6, patience=patience)
    assert len(seen) == len(history.losses) == len(history.scores) == epochs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error(value):
    calls = 0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return functional.cross_entropy(logits, target) * (value if calls > 10 else 1.0)

    with pytest.raises(DistillError, match=r"training: the loss became (nan|inf) in epoch 1; lower the learning rate"):
        run(Words(), loss=loss, epochs=3)


def test_targets_belong_to_their_rows():
    # A row's one id names its target, whatever the order of the batches.
    rows, targets = [[number] for number in range(1, 11)], np.eye(10)
    seen: list[tuple[int, int]] = []

    class Echo(Words):
        def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional.one_hot(ids[:, 0] - 1, 10).float() + 0 * self.head.bias.sum()
            return logits, logits

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.extend(zip(logits.argmax(1).tolist(), target.argmax(1).tolist(), strict=True))
        return (logits - target).square().sum()

    train(Echo(), rows, targets, loss, lambda module: 1.0, Optimisation(epochs=2, batch_size=3), "training")
    assert sorted(seen) == sorted([(number, number) for number in range(10)] * 2)


class StoppedError(Exception):
    """What stops a training."""


def stopping_at(call: int) -> Callable[[nn.Module], float]:
    """A score that stops the training when it is asked for so many times."""
    calls = 0

    def score(module: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == call:
            raise StoppedError
        return accuracy(module)

    return score


@pytest.mark.parametrize("options", [{}, {"averaging": 0.5}, {"patience": 3}])
def test_a_stopped_training_goes_on_and_ends_as_if_it_had_not_been(tmp_path, options):
    whole, checkpoint = Words(), Checkpoint(tmp_path / "state", "key")
    expected = run(whole, **options)
    with pytest.raises(StoppedError):
        run(Words(), score=stopping_at(4), checkpoint=checkpoint, **options)
    assert [path.name for path in checkpoint.folder.iterdir()] == ["key-3"]
    with pytest.raises(StoppedError):
        run(Words(), score=stopping_at(2), checkpoint=checkpoint, **options)
    resumed = Words()
    assert run(resumed, score=stopping_at(2), checkpoint=checkpoint, **options) == expected
    assert same(weights(resumed), weights(whole))


def test_a_finished_training_is_not_trained_further(tmp_path):
    checkpoint, module, again = Checkpoint(tmp_path / "state", "key"), Words(), Words()
    finished = run(module, checkpoint=checkpoint)
    assert run(again, score=stopping_at(1), checkpoint=checkpoint) == finished
    assert same(weights(again), weights(module))


def test_the_state_of_another_training_is_not_taken(tmp_path):
    run(Words(), checkpoint=Checkpoint(tmp_path / "state", "key"))
    for key in ("other", "ke", "key-1"):
        with pytest.raises(StoppedError):
            run(Words(), score=stopping_at(1), checkpoint=Checkpoint(tmp_path / "state", key))
    checkpoint = Checkpoint(tmp_path / "state", "key")
    checkpoint.remove()
    with pytest.raises(StoppedError):
        run(Words(), score=stopping_at(1), checkpoint=checkpoint)


def test_averaged_weights_are_scored_and_kept():
    # Averaged over all steps, the weights kept are the mean of those after each step.
    module = Words()
    after: list[Tensor] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        after.append(module.head.weight.detach().clone())  # before this step, that is after the last
        return functional.cross_entropy(logits, target)

    score, seen = scripted((0.5,) * 3)
    run(module, loss=loss, score=score, epochs=3, averaging=1.0)
    kept = weights(module)
    assert same(kept, seen[-1])
    steps = len(after)
    # The weights after the last step are not seen by the loss; the mean tells them.
    last = steps * kept["head.weight"] - torch.stack(after[1:]).sum(0)
    assert (last - after[-1]).abs().max() < 0.05
    assert (kept["head.weight"] - after[-1]).abs().max() > 0.1


def test_layers_learn_at_rates_of_their_own(encoder_config):
    student = build_encoder(encoder_config, ("a", "b"))
    module = student.network.module
    before = weights(module)
    optimisation = Optimisation(epochs=1, learning_rate=0.01, weight_decay=0, layer_decay=1e-6)
    train(module, ROWS, TARGETS, functional.cross_entropy, lambda module: 1.0, optimisation, "training")
    moved = {name: float((value - before[name]).abs().max()) for name, value in weights(module).items()}
    assert max(moved["head.weight"], moved["head.bias"]) > 1e-3
    assert max(value for name, value in moved.items() if not name.startswith("head")) < 1e-6


def test_only_matrices_decay():
    module = Words()
    before = weights(module)
    run(module, loss=lambda logits, target: 0 * logits.sum(), weight_decay=0.5, epochs=1)
    after = weights(module)
    assert torch.equal(before["words.weight"], after["words.weight"])
    assert torch.equal(before["head.bias"], after["head.bias"])
    assert after["head.weight"].norm() < before["head.weight"].norm()


def test_a_batch_holds_rows_of_like_length():
    lengths = [len(row) for row in ROWS] * 20
    batches = list(LengthBuckets(lengths, 16, seed=0))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == len(LengthBuckets(lengths, 16, seed=0)) == len(lengths) // 16
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert sum(length * len(batch) for length, batch in zip(longest, batches, strict=True)) < 1.1 * sum(lengths)
    assert sum(longest[:30]) > 0.7 * sum(longest[-30:])  # short and long ones come mixed
    assert sorted(map(len, LengthBuckets([1] * 10, 4, seed=0))) == [2, 4, 4]
    assert len(LengthBuckets([1] * 10, 4, seed=0)) == 3


def test_batches_are_drawn_anew_each_epoch_and_repeatably():
    buckets, twin = (LengthBuckets([3] * 100, 10, seed=1) for _ in range(2))
    first, second = list(buckets), list(buckets)
    assert first != second
    assert [list(twin), list(twin)] == [first, second]
    assert list(LengthBuckets([3] * 100, 10, seed=2)) != first


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (100, 0.0), (1, 0.1), (7, 0.9)])
def test_the_learning_rate_rises_then_falls_and_no_step_is_wasted(steps, warmup):
    rate = [_warmup_then_linear(steps, warmup)(step) for step in range(steps)]
    top = rate.index(max(rate))
    assert all(0 < value <= 1 for value in rate)
    assert rate[: top + 1] == sorted(rate[: top + 1])
    assert rate[top:] == sorted(rate[top:], reverse=True)
    assert max(rate) > 0.8


class OneOfMany:
    """A process of several, as accelerate sees it."""

    def __init__(self, main: bool) -> None:
        self.is_main_process, self.waits = main, 0

    def wait_for_everyone(self) -> None:
        self.waits += 1


@pytest.mark.parametrize("main", [True, False])
def test_every_process_works_and_the_main_one_alone_saves_the_result(tmp_path, monkeypatch, main):
    process, worked = OneOfMany(main), []
    monkeypatch.setattr(loop, "Accelerator", lambda: process)

    def work() -> str:
        worked.append(main)
        return "x"

    def save(weights: str, folder: Path) -> None:
        (folder / "weights").write_text(weights)

    stage = Stage(tmp_path / "student", {"seed": 1})
    assert on_every_process(stage, work, save) == stage.path
    assert worked == [main]
    assert [file.read_text() for file in stage.path.glob("weights")] == (["x"] if main else [])
    assert stage.done == main
    assert process.waits == 2


@pytest.mark.parametrize("main", [True, False])
def test_no_process_works_on_what_is_up_to_date(tmp_path, monkeypatch, main):
    monkeypatch.setattr(loop, "Accelerator", lambda: OneOfMany(main))
    stage = Stage(tmp_path / "student", {"seed": 1})
    stage.build(lambda folder: None)
    on_every_process(stage, lambda: pytest.fail("made again"), lambda made, folder: pytest.fail("saved again"))
