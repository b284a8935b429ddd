"""Train only the token embeddings that the data uses.

Adam over a whole vocabulary costs more than all layers of a small student together, most of it for rows without a
gradient. During training a module has compact tables and remapped ids; afterwards the rows are copied back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from distill.students.student import StudentModule


@contextmanager
def compact_tables(
    module: StudentModule, *corpora: Sequence[Sequence[int]], frozen: bool = False
) -> Iterator[list[list[list[int]]]]:
    """Shrink the module's tables to the ids in the corpora, and yield the corpora in the ids of the small tables.

    Ids up to the padding id keep their numbers, since models compare with it. On exit the trained rows are written back
    into the full tables. With `frozen` the tables are not trained. A module without tables gets its corpora unchanged.
    """
    whole = module.tables()
    if not whole:
        yield [[list(row) for row in corpus] for corpus in corpora]
        return
    first = next(iter(whole.values()))
    size = first.num_embeddings
    padding = max(module.pad_id, first.padding_idx or 0)
    used = sorted(set(range(padding + 1)).union(*(set(row) for corpus in corpora for row in corpus)))
    place = np.full(size, -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    rows = torch.tensor(used)
    for name, table in whole.items():
        weights = table.weight.detach()[rows].clone()
        module.set_table(name, nn.Embedding.from_pretrained(weights, freeze=frozen))  # type: ignore[no-untyped-call]
    try:
        yield [[place[row].tolist() for row in corpus] for corpus in corpora]
    finally:
        trained = module.tables()
        with torch.no_grad():
            for name, table in whole.items():
                table.weight[rows] = trained[name].weight.to(table.weight.device)
                module.set_table(name, table)
