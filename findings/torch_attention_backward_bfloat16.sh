#!/usr/bin/env bash
# On a CPU, torch's fused attention goes backward many times slower in bfloat16 than in float32.
#
# torch 2.13.0, one thread, a CPU with AMX; 32 texts of 16 tokens, 12 heads of 32. The kernel that
# `scaled_dot_product_attention` takes by itself needs 2.3 ms forward and backward in float32 and 32 ms in bfloat16, though
# matrix products of bfloat16 are the faster ones there. Its own parts (`SDPBackend.MATH`) need 4 ms in bfloat16. So under
# `torch.autocast` attention alone may take half of a training step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off torch==2.13.0 numpy
cat > "$folder/time.py" <<'PYTHON'
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(1)


def milliseconds(dtype, backend):
    query, key, value = (torch.randn(32, 12, 16, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.zeros(32, 1, 16, 16, dtype=dtype)
    spent = []
    for _ in range(15):
        begun = time.perf_counter()
        with sdpa_kernel([backend]):
            scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()
        spent.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spent[3:])


FUSED, PARTS = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
times = {
    (name, kind): milliseconds(dtype, backend)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    for kind, backend in (("fused", FUSED), ("parts", PARTS))
}
for (name, kind), value in times.items():
    print(f"{name}, {kind}: {value:.1f} ms")
slow = times["bfloat16", "fused"]
sys.exit(not (slow > 3 * times["bfloat16", "parts"] and slow > 3 * times["float32", "fused"]))
PYTHON
"$folder/venv/bin/python" "$folder/time.py"
