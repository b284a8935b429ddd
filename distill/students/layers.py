"""Some of an encoder's layers: taken from it, and found again where the encoder is built anew from its folder.

In some encoders a layer's kind hangs on its index alone: every third of ModernBERT's attends globally and its first has
no norm, newer configurations list `layer_types`, Longformer's lists windows. Built anew with fewer layers, such an
encoder would have other kinds than were chosen. Its configuration then keeps the number of all layers and the indices
of those that were taken, so that all are made and the same are taken again before the weights are read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel

from distill.errors import DistillError

_LAYER_LISTS = ("encoder.layer", "transformer.layer", "layers", "encoder.layers")
_COUNTS = ("num_hidden_layers", "n_layers")
_TAKEN, _OF = "taken_layers", "taken_of"
"""Keys of a configuration: the indices of the layers that were taken, and of how many."""

_TOLERANCE = 1e-4
_SCALE = 1.0


def take_layers(model: Any, layers: Sequence[int]) -> None:
    """Keep only these layers of an encoder, in this order. Raises DistillError when it has not got them."""
    parent, name, stack = _stack(model)
    if not layers or min(layers) < 0 or max(layers) >= len(stack) or len(set(layers)) < len(layers):
        raise DistillError(f"layers {list(layers)}: the model has layers 0 to {len(stack) - 1}; name each at most once")
    setattr(parent, name, nn.ModuleList(stack[index] for index in layers))
    config = model.config
    before = getattr(config, _TAKEN, None) or range(len(stack))
    setattr(config, _OF, getattr(config, _OF, len(stack)))
    setattr(config, _TAKEN, [before[index] for index in layers])
    _set_count(config, len(layers))
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a decoder's cache has a place for each layer, by its index among all


def settle_layers(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """See that an encoder whose layers were taken can be built anew, on rows of token ids, the longest among them.

    Where the number of layers is enough to build it, its configuration says no more than that, as any of transformers
    does. Raises DistillError when it cannot be built anew at all.
    """
    plain = copy.deepcopy(model.config)
    for key in (_TAKEN, _OF):
        delattr(plain, key)
    if _alike(model, plain, rows):
        for key in (_TAKEN, _OF):
            delattr(model.config, key)
    elif not _alike(model, whole_config(model.config), rows):
        raise DistillError(
            f"layers {getattr(model.config, _TAKEN)}: a {type(model).__name__} of these layers answers otherwise when "
            "it is built anew from its folder; keep all its layers, or use another model"
        )


def whole_config(config: Any) -> Any:
    """The configuration to write beside an encoder's weights: of all layers, where some that were taken are named."""
    whole = copy.deepcopy(config)
    if hasattr(config, _TAKEN):
        _set_count(whole, getattr(config, _OF))
    return whole


def load_encoder(name: str | Path) -> Any:
    """An encoder of transformers without its pooler, which we do not use, and with the layers that were taken of it."""
    config = AutoConfig.from_pretrained(name)
    if not hasattr(config, _TAKEN):
        return _without_pooler(AutoModel.from_pretrained(name))
    encoder = _built(config)
    state: dict[str, torch.Tensor] = {}
    for file in sorted(Path(name).glob("*.safetensors")):
        state |= load_file(str(file))
    encoder.load_state_dict(state)
    return encoder


def blank_encoder(name: str | Path) -> Any | None:
    """An encoder of a model's configuration, without weights to compute with; None where that cannot be made."""
    config = AutoConfig.from_pretrained(name)
    try:
        with torch.device("meta"):
            return _built(config)
    except Exception:  # of the architectures' own: some compute a value while they are made
        return None


def load_own_encoder(folder: Path) -> Any:
    """What was saved of a student. Raises ValueError where its configuration makes other layers than it has weights."""
    encoder = load_encoder(folder)
    saved: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), "pt") as weights:
            saved.update(weights.keys())
    needed, known = {name for name, _ in encoder.named_parameters()}, set(encoder.state_dict())
    if wrong := sorted((needed - saved) | (saved - known)):
        raise ValueError(f"its layers are others than its weights: {', '.join(wrong[:3])}")
    return encoder


def _alike(model: Any, config: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether a configuration, read as from a folder, makes an encoder that computes what `model` does.

    Both are given the same random weights for it, large enough for every layer to matter.
    """
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        other = _built(type(config).from_dict(config.to_dict()), dtype=model.dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    scale = _SCALE * parameter.shape[-1] ** -0.5
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        other.load_state_dict(model.state_dict())
        return all(
            torch.allclose(_states(model, row), _states(other, row), rtol=_TOLERANCE, atol=_TOLERANCE) for row in rows
        )
    except Exception:  # of many kinds: a configuration that is none, other weights, a failing layer
        return False
    finally:
        model.load_state_dict(kept)


def _built(config: Any, **options: Any) -> Any:
    """An encoder with random weights, of the layers that its configuration says were taken."""
    taken = getattr(config, _TAKEN, None)
    for key in (_TAKEN, _OF):
        if hasattr(config, key):
            delattr(config, key)
    encoder = _without_pooler(AutoModel.from_config(config, **options))
    if taken is not None:
        take_layers(encoder, taken)
    return encoder.eval()


@torch.inference_mode()
def _states(model: Any, row: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([row])
    states: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return states


def _without_pooler(encoder: Any) -> Any:
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    return encoder


def _stack(model: Any) -> tuple[Any, str, nn.ModuleList]:
    """The layers of an encoder, and the module and the name under which it has them."""
    for path in _LAYER_LISTS:
        first, _, name = path.rpartition(".")
        parent = getattr(model, first, None) if first else model
        stack = getattr(parent, name, None)
        if isinstance(stack, nn.ModuleList):
            return parent, name, stack
    raise DistillError(f"cannot find the layers of a {type(model).__name__}; use a BERT-like encoder")


def _set_count(config: Any, count: int) -> None:
    for name in _COUNTS:
        if name in config.to_dict():
            setattr(config, name, count)
