"""The training loop: length-bucketed batches, warm-up and decay, early stopping; accelerate handles devices.

The loss and the validation score are parameters, so teachers and students share the loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from distill.errors import DistillError
from distill.progress import bar
from distill.sections import Optimisation
from distill.stages import Stage
from distill.students.padding import pad
from distill.training.averaging import Average
from distill.training.checkpoint import Checkpoint
from distill.training.course import Course, History
from distill.training.parameter_groups import parameter_groups
from distill.training.precision import forward_pass

Floats = npt.NDArray[np.floating]
Loss = Callable[[Tensor, Tensor], Tensor]
Result = TypeVar("Result")

_POOL = 64  # batches sorted by length together


class LengthBuckets(BatchSampler):
    """Batches of rows of similar length, so that little is padded, in a new random order each epoch."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.drop_last = lengths, batch_size, False
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self.lengths)))
        self._random.shuffle(order)
        span = self.batch_size * _POOL
        batches = []
        for start in range(0, len(order), span):
            pool = sorted(order[start : start + span], key=lambda row: self.lengths[row])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        self._random.shuffle(batches)
        yield from batches

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: the state from which the next epoch is drawn."""
        return {"random": self._random.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the next epochs as another sampler would have drawn them."""
        self._random.setstate(state["random"])


def train(
    module: nn.Module,
    rows: Sequence[list[int]],
    targets: Floats,
    loss: Loss,
    score: Callable[[nn.Module], float],
    optimisation: Optimisation,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train a module in place on rows of token ids and targets [N, …], and keep the weights of the best epoch.

    `loss` is given the logits [B, K] and the targets of a batch. `score`, higher for better, is computed on validation
    data. If weights are averaged, the averages are scored and kept. The state is stored in `checkpoint` after each
    epoch, and a training that has one goes on from there. Raises DistillError when the loss is not finite.
    """
    set_seed(optimisation.seed)
    accelerator = Accelerator()
    sampler = LengthBuckets([len(row) for row in rows], optimisation.batch_size, optimisation.seed)
    examples: Any = list(zip(rows, targets.astype(np.float32), strict=True))
    loader = DataLoader(examples, batch_sampler=sampler, collate_fn=_collate)
    optimizer = torch.optim.AdamW(parameter_groups(module, optimisation), fused=True)
    steps = len(sampler) * optimisation.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_linear(steps, optimisation.warmup))
    prepared, optimizer, loader, schedule = accelerator.prepare(module, optimizer, loader, schedule)
    # Without accelerate's autocast in the module, which would win over `cast` below, and be in force for scores too.
    plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    span = optimisation.averaging * len(loader) * optimisation.epochs
    average = Average(plain, span) if optimisation.averaging else None
    kept = plain if average is None else average.module
    course = Course()
    if checkpoint is not None:
        accelerator.register_for_checkpointing(sampler, course, *([] if average is None else [average]))
        checkpoint.load(accelerator)
    cast = forward_pass(accelerator, optimisation.precision)
    with bar(description, len(loader) * optimisation.epochs) as advance:

        def stepped() -> None:
            if average is not None:
                average.update()
            advance(1)

        advance(len(course.losses) * len(loader))
        while not course.ended(optimisation.epochs, optimisation.patience):
            value = _epoch(prepared, loader, loss, optimizer, schedule, accelerator, cast, stepped)
            if not np.isfinite(value):
                epoch = len(course.losses)
                raise DistillError(f"{description}: the loss became {value} in epoch {epoch}; lower the learning rate")
            course.add(value, score(kept), kept)
            if checkpoint is not None:
                checkpoint.save(accelerator, len(course.losses))
        advance((optimisation.epochs - len(course.losses)) * len(loader))
    plain.load_state_dict(course.weights)
    module.to("cpu").eval()
    return course.history()


def on_every_process(stage: Stage, work: Callable[[], Result], save: Callable[[Result, Path], None]) -> Path:
    """Build a stage unless it is up to date, and return its path.

    Under `accelerate launch` every process does the work, since they train together. The main one alone saves the
    result: transformers 5 writes no weights in any other.
    """
    # Not PartialState, which does not see several processes on CPUs by itself.
    state = Accelerator()
    done = stage.done
    state.wait_for_everyone()
    if done:
        return stage.path
    if state.is_main_process:
        stage.build(lambda folder: save(work(), folder))
    else:
        work()
    state.wait_for_everyone()
    return stage.path


def _epoch(
    module: nn.Module,
    loader: Any,
    loss: Loss,
    optimizer: Any,
    schedule: Any,
    accelerator: Accelerator,
    cast: Callable[[], AbstractContextManager[None]],
    stepped: Callable[[], None],
) -> float:
    module.train()
    total = 0.0
    for ids, mask, target in loader:
        with cast():
            logits, _ = module(ids, mask)
        value = loss(logits.float(), target)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += float(value.detach())
        stepped()
    return total / len(loader)


def _warmup_then_linear(steps: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(steps * warmup))
    return lambda step: min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))


def _collate(items: list[tuple[list[int], Floats]]) -> tuple[Tensor, Tensor, Tensor]:
    ids, mask = pad([row for row, _ in items])
    return ids, mask, torch.from_numpy(np.stack([target for _, target in items]))
