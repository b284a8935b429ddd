"""A moving average of a module's weights during training, which is less noisy than the weights of the last step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, lerp, nn
from torch.optim.swa_utils import AveragedModel


class Average:
    """The average of a module's weights over about the last `steps` steps; at first, over all steps so far.

    Weights of `n` steps ago count (1 − 1/`steps`)ⁿ (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).
    """

    def __init__(self, module: nn.Module, steps: float) -> None:
        least = 1 / max(1.0, steps)

        def averaged(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            return lerp(average, current, max(1 / (int(count) + 1), least))

        self._source = module
        self._model = AveragedModel(module, avg_fn=averaged)

    @property
    def module(self) -> nn.Module:
        """A module like the given one, with the averaged weights."""
        module: nn.Module = self._model.module
        return module

    def update(self) -> None:
        """Take the weights of the module into the average, after a step."""
        self._model.update_parameters(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: the averages, and of how many steps they are."""
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another average was."""
        self._model.load_state_dict(state)
