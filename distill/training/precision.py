"""In which numbers a forward pass computes. Weights, gradients, losses and validation scores are always float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from distill.sections import Precision


def autocast(accelerator: Accelerator, precision: Precision) -> torch.autocast:
    """Return the context of a forward pass: matrix products in bfloat16, or in float32.

    `auto` takes bfloat16 on a CPU that has AMX: a step of a three-layer encoder takes half of the time there on one
    core, and about three quarters on two. With AVX-512's bfloat16 alone it takes longer than with float32. `auto`
    leaves a precision alone that is configured with accelerate.
    """
    device = accelerator.device.type
    low = precision == "bfloat16" or (
        precision == "auto" and device == "cpu" and accelerator.mixed_precision == "no" and has_amx()
    )
    return torch.autocast(device, torch.bfloat16, enabled=low)


def has_amx() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in tiles. False where torch is too old to tell."""
    capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get("amx_bf16", False))
