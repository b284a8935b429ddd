"""Select some layers of an encoder, so that the same encoder is rebuilt from its folder.

In some encoders the kind of a layer depends on its index: every third layer of ModernBERT attends globally and its
first has no norm, newer configurations list `layer_types`, Longformer's lists windows. Rebuilt with fewer layers, such
an encoder would have other kinds than were selected. Where the list is one of `_PER_LAYER`, it keeps the entries of the
selected layers. Where that is not enough, the configuration describes all layers and names the selected ones, so that
all are made and the same are selected again before the weights are read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel

from distill.errors import DistillError

_LAYER_LISTS = ("encoder.layer", "transformer.layer", "layers", "encoder.layers")
_COUNTS = ("num_hidden_layers", "n_layers")
_PER_LAYER = ("layer_types", "mlp_layer_types")
"""Lists of a configuration with an entry for each layer. transformers 5 reads them in the forward pass, too."""

_TAKEN, _OF = "taken_layers", "taken_of"
"""Keys of a configuration: the indices of the selected layers, and what it says of all layers."""

_TOLERANCE = 1e-4
_SCALE = 1.0


def spread(count: int, depth: int) -> tuple[int, ...]:
    """Return the indices of `count` of `depth` layers, evenly spaced, the first and the last among them.

    One layer is the first, which reads the token embeddings as it did before. Of 12 layers, 6 are those that DistilBERT
    took of BERT (Sanh et al. 2019): 0, 2, 4, 7, 9, 11.
    """
    return tuple(round(at * (depth - 1) / max(1, count - 1)) for at in range(count))


def layers_of(model: Any) -> nn.ModuleList:
    """Return the layers of an encoder. Raises DistillError where they cannot be found."""
    return _stack(model)[2]


def select_layers(model: Any, layers: int | Sequence[int]) -> None:
    """Keep only some layers of an encoder: as many as `layers` says, taken evenly, or those it names, in this order.

    Raises DistillError when the encoder does not have them.
    """
    parent, name, stack = _stack(model)
    if isinstance(layers, int):
        if not 1 <= layers <= len(stack):
            raise DistillError(f"layers {layers}: the model has {len(stack)}; set layers to 1 to {len(stack)}")
        layers = spread(layers, len(stack))
    if not layers or min(layers) < 0 or max(layers) >= len(stack) or len(set(layers)) < len(layers):
        raise DistillError(f"layers {list(layers)}: the model has layers 0 to {len(stack) - 1}; name each at most once")
    setattr(parent, name, nn.ModuleList(stack[index] for index in layers))
    config = model.config
    before = getattr(config, _TAKEN, None) or range(len(stack))
    if not hasattr(config, _OF):
        setattr(config, _OF, _described(config))
    setattr(config, _TAKEN, [before[index] for index in layers])
    for name, value in _described(config).items():
        setattr(config, name, [value[index] for index in layers] if isinstance(value, list) else len(layers))
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a decoder's cache is indexed by the layer's index among all layers


def check_rebuildable(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Check, on rows of token ids, that an encoder with selected layers can be rebuilt from its configuration.

    If the number of layers is enough to rebuild it, our keys are removed, so that it is a plain configuration of
    transformers. Raises DistillError when it cannot be rebuilt at all.
    """
    plain = copy.deepcopy(model.config)
    for key in (_TAKEN, _OF):
        delattr(plain, key)
    if _same_outputs(model, plain, rows):
        for key in (_TAKEN, _OF):
            delattr(model.config, key)
    elif not _same_outputs(model, config_to_save(model.config), rows):
        raise DistillError(
            f"layers {getattr(model.config, _TAKEN)}: a {type(model).__name__} of these layers gives other answers "
            "when it is rebuilt from its folder; keep all its layers, or use another model"
        )


def config_to_save(config: Any) -> Any:
    """Return the configuration to save with an encoder: it describes all layers if it names the selected ones."""
    whole = copy.deepcopy(config)
    if hasattr(config, _TAKEN):
        for name, value in getattr(config, _OF).items():
            setattr(whole, name, value)
    return whole


def load_encoder(name: str | Path) -> Any:
    """Load an encoder of transformers, without its pooler (which is unused), and with the layers selected from it."""
    return _load(name)[0]


def _load(name: str | Path) -> tuple[Any, set[str]]:
    """Load an encoder, and return it with the names of weights that only it or only its files have."""
    config = AutoConfig.from_pretrained(name)
    if not hasattr(config, _TAKEN):
        # The names in the files may be others: transformers 5 saves some architectures as they were first published.
        encoder, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        encoder = _without_pooler(encoder)
        needed = {weight for weight, _ in encoder.named_parameters()}
        return encoder, needed.intersection(info["missing_keys"]) | set(info["unexpected_keys"])
    encoder = _build(config)
    state: dict[str, torch.Tensor] = {}
    for file in sorted(Path(name).glob("*.safetensors")):
        state |= load_file(str(file))
    encoder.load_state_dict(state)
    return encoder, set()


def meta_encoder(name: str | Path) -> Any | None:
    """Build an encoder on torch's meta device, that is without weights; None where its architecture cannot be."""
    config = AutoConfig.from_pretrained(name)
    try:
        with torch.device("meta"):
            return _build(config)
    except Exception:  # any: some architectures compute values while they are built
        return None


def load_saved_encoder(folder: Path) -> Any:
    """Load a student's encoder. Raises ValueError when its configuration makes other layers than it has weights for."""
    encoder, wrong = _load(folder)
    if wrong:
        raise ValueError(f"its layers do not match its weights: {', '.join(sorted(wrong)[:3])}")
    return encoder


def _same_outputs(model: Any, config: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether a configuration, as read back from a folder, makes an encoder that computes what `model` does.

    For the comparison both get the same random weights, large enough for every layer to matter.
    """
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        other = _build(type(config).from_dict(config.to_dict()), dtype=model.dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    scale = _SCALE * parameter.shape[-1] ** -0.5
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        other.load_state_dict(model.state_dict())
        pairs = ((_last_hidden_state(model, row), _last_hidden_state(other, row)) for row in rows)
        return all(torch.allclose(one, two, rtol=_TOLERANCE, atol=_TOLERANCE) for one, two in pairs)
    except Exception:  # many kinds: an invalid configuration, other weights, a failing layer
        return False
    finally:
        model.load_state_dict(kept)


def _build(config: Any, **options: Any) -> Any:
    """Build an encoder with random weights, and with the selected layers that its configuration names."""
    taken = getattr(config, _TAKEN, None)
    for key in (_TAKEN, _OF):
        if hasattr(config, key):
            delattr(config, key)
    encoder = _without_pooler(AutoModel.from_config(config, **options))
    if taken is not None:
        select_layers(encoder, taken)
    return encoder.eval()


@torch.inference_mode()
def _last_hidden_state(model: Any, row: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([row])
    states: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return states


def _without_pooler(encoder: Any) -> Any:
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    return encoder


def _stack(model: Any) -> tuple[Any, str, nn.ModuleList]:
    """Return the module that holds an encoder's layers, the name under which it does, and the layers."""
    for path in _LAYER_LISTS:
        first, _, name = path.rpartition(".")
        parent = getattr(model, first, None) if first else model
        stack = getattr(parent, name, None)
        if isinstance(stack, nn.ModuleList):
            return parent, name, stack
    raise DistillError(f"cannot find the layers of a {type(model).__name__}; use a BERT-like encoder")


def _described(config: Any) -> dict[str, Any]:
    """Return what a configuration says of its layers: their number, and the lists with an entry for each."""
    values = config.to_dict()
    return {
        **{name: values[name] for name in _COUNTS if name in values},
        **{name: values[name] for name in _PER_LAYER if isinstance(values.get(name), list)},
    }
