"""While training, a module has the rows it needs; afterwards they lie where they were, and no other has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from distill.students.padding import pad
from distill.students.student import StudentModule, predict
from distill.students.vocabulary import compact_tables
from distill.training.distil import build_student


class Padded(StudentModule):
    """A table whose padding id is 3, as some models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4, padding_idx=3)

    def tables(self) -> dict[str, nn.Embedding]:
        return {"words": self.words}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        self.words = table

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.words(ids).sum(1), self.words(ids).sum(1)


def train_a_little(module: StudentModule, rows: list[list[int]]) -> None:
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        logits, _ = module(*pad(rows))
        logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session", params=["encoder", "static"])
def family(request) -> str:
    """Each family with tables of tokens, in turn."""
    return request.param


@pytest.fixture
def module(config, labels, splits) -> StudentModule:
    return build_student(config, labels, splits[0]).network.module


LEARN, CHOOSE = [[2, 10, 12, 3], [2, 12, 20, 21, 3]], [[2, 10, 30, 3]]
USED = [0, 2, 3, 10, 12, 20, 21, 30]


def test_only_rows_in_use_change_and_they_come_back_to_their_places(module):
    before = copy.deepcopy(module.state_dict())
    tables = module.tables()
    with compact_tables(module, LEARN, CHOOSE) as (rows, _):
        assert [table.num_embeddings for table in module.tables().values()] == [len(USED)] * len(tables)
        train_a_little(module, rows)
        inside = {name: table.weight.detach().clone() for name, table in module.tables().items()}
    assert module.tables() == tables
    unused = sorted(set(range(next(iter(tables.values())).num_embeddings)) - set(USED))
    for name, table in tables.items():
        assert torch.equal(table.weight[USED], inside[name])
        key = next(key for key, value in module.state_dict().items() if value.data_ptr() == table.weight.data_ptr())
        assert torch.equal(table.weight[unused], before[key][unused])
        trained = [USED.index(used) for used in (10, 12, 20, 21)]
        assert not torch.equal(table.weight[USED][trained], before[key][USED][trained])


def test_answers_are_the_same_inside_and_outside(module):
    untouched = predict(module, [*LEARN, *CHOOSE])
    with compact_tables(module, LEARN, CHOOSE) as (rows, held):
        assert (predict(module, [*rows, *held]) == untouched).all()
        train_a_little(module, rows)
        inside = predict(module, [*rows, *held])
    assert (predict(module, [*LEARN, *CHOOSE]) == inside).all()
    assert not (inside == untouched).all()


def test_corpora_keep_their_shape_and_order(module):
    with compact_tables(module, LEARN, [], CHOOSE) as (rows, none, held):
        assert [list(map(len, corpus)) for corpus in (rows, none, held)] == [[4, 5], [], [4]]
        assert [[USED[token] for token in row] for row in rows] == LEARN
        assert [[USED[token] for token in row] for row in held] == CHOOSE


def test_ids_up_to_the_padding_id_keep_their_numbers():
    module = Padded()
    with compact_tables(module, [[3, 40, 7], [9]]) as (rows,):
        assert module.words.num_embeddings == 7  # 0 to 3, and 7, 9 and 40
        assert rows == [[3, 6, 4], [5]]


def test_the_whole_tables_are_back_after_an_error(module):
    tables = module.tables()
    with pytest.raises(RuntimeError, match="no more"), compact_tables(module, LEARN):
        raise RuntimeError("no more")
    assert module.tables() == tables
    predict(module, [[2, 35, 3]])


def test_frozen_tables_take_no_part_in_training(tiny_encoder):
    from distill.students.encoder import classifier_over

    module = classifier_over(str(tiny_encoder), ("a", "b"), 16).network.module
    with compact_tables(module, [[2, 5, 3]], frozen=True):
        assert not module.tables()["words"].weight.requires_grad
    with compact_tables(module, [[2, 5, 3]]):
        assert module.tables()["words"].weight.requires_grad


def test_a_module_without_tables_reads_the_ids_as_they_are(trained_ngrams):
    with compact_tables(trained_ngrams.student.network.module, LEARN, CHOOSE) as corpora:
        assert corpora == [LEARN, CHOOSE]
