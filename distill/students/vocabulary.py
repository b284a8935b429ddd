"""Train only the token embeddings that the data uses.

Adam over a whole vocabulary costs more than all layers of a small student together, for rows that never get a
gradient. While training, a module sees a compact table and remapped ids; afterwards the rows go back to their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from distill.students.student import StudentModule


@contextmanager
def compact(
    module: StudentModule, *corpora: Sequence[Sequence[int]], frozen: bool = False
) -> Iterator[list[list[list[int]]]]:
    """Shrink the module's tables to the ids in the corpora, and give the corpora in the ids of the small tables.

    Ids up to the padding id keep their numbers, since models compare with it. On leaving, the trained rows are written
    back into the whole tables.
    """
    whole = module.tables()
    first = next(iter(whole.values()))
    size = first.num_embeddings
    padding = max(module.pad_id, first.padding_idx or 0)
    used = sorted(set(range(padding + 1)).union(*(set(row) for corpus in corpora for row in corpus)))
    place = np.full(size, -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    rows = torch.tensor(used)
    for name, table in whole.items():
        module.set_table(name, _table(table.weight.detach()[rows].clone(), frozen))
    try:
        yield [[place[row].tolist() for row in corpus] for corpus in corpora]
    finally:
        small = module.tables()
        with torch.no_grad():
            for name, table in whole.items():
                table.weight[rows] = small[name].weight.to(table.weight.device)
                module.set_table(name, table)


def _table(weight: Tensor, frozen: bool) -> nn.Embedding:
    table = nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight)
    table.weight.requires_grad_(not frozen)
    return table
