"""In which numbers a forward pass computes. Weights, gradients, losses and validation scores are always float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from distill.sections import Precision


def forward_pass(accelerator: Accelerator, precision: Precision) -> Callable[[], AbstractContextManager[None]]:
    """Return what gives the context of a forward pass: matrix products in bfloat16, or in float32.

    `auto` takes bfloat16 on a CPU that has AMX, where a step of a three-layer encoder takes about half of the time.
    With AVX-512's bfloat16 alone it takes longer than with float32. `auto` takes a precision that is configured with
    accelerate instead; the others do not.
    """
    device = accelerator.device.type
    configured = accelerator.mixed_precision if precision == "auto" else "no"
    low = precision == "bfloat16" or (precision == "auto" and device == "cpu" and configured == "no" and has_amx())
    # torch's fused attention takes ten times as long as its parts to go backward in bfloat16 on a CPU.
    unfused = device == "cpu" and (low or configured == "bf16")

    @contextmanager
    def context() -> Iterator[None]:
        attention = sdpa_kernel(SDPBackend.MATH) if unfused else nullcontext()
        own = torch.autocast(device, torch.bfloat16, enabled=low) if configured == "no" else accelerator.autocast()
        with own, attention:
            yield

    return context


def has_amx() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in tiles. False where torch is too old to tell."""
    capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get("amx_bf16", False))
