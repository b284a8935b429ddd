"""A static student weighs its tokens, sees which stand side by side but not their padding, and survives the disk."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from distill.students import static
from distill.students.padding import pad
from distill.students.static import StaticModule, build
from distill.students.student import load_student

TEXTS = ["invoice", "my parcel is late and the courier has no address please help", "login password", "the"]


@pytest.fixture
def student(static_config, labels, splits):
    return build(static_config, labels, splits[0].texts)


def test_a_token_starts_as_what_the_encoder_makes_of_it_alone_scaled_to_about_one(student, tiny_encoder):
    encoder = AutoModel.from_pretrained(tiny_encoder).eval()
    words = student.network.module.words.weight.detach()
    with torch.inference_mode():
        states = [encoder(torch.tensor([[2, token, 3]])).last_hidden_state.mean(1)[0] for token in (0, 10, 49)]
    scale = float(words[10].norm() / states[1].norm())
    for token, state in zip((0, 10, 49), states, strict=True):
        torch.testing.assert_close(words[token], state * scale, atol=1e-5, rtol=1e-5)
    assert float(words.norm(dim=1).mean()) == pytest.approx(words.shape[1] ** 0.5, rel=1e-4)


def test_token_weights_start_from_smooth_inverse_frequency(static_config, labels):
    module: Any = build(static_config, labels, ["the the the", "the invoice"]).network.module
    tokens = build(static_config, labels, ["the"]).tokenizer
    weights = module.importance.weight.detach()[:, 0].exp()
    total = 2 + 2 + 4 + 1  # [CLS], [SEP], `the`, `invoice`
    for token, count in (("the", 4), ("invoice", 1), ("[CLS]", 2), ("parcel", 0)):
        assert float(weights[tokens.token_to_id(token)]) == pytest.approx(1e-3 / (1e-3 + count / total), rel=1e-4)


def test_the_embedding_is_the_weighted_mean_by_hand():
    module = StaticModule(5, 2, 8, 3, pairs=True).eval()
    with torch.no_grad():
        module.words.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
        module.importance.weight.copy_(torch.tensor([[0.0], [3.0], [1.0], [0.0], [0.0]]).log())
        _, embedding = module(*pad([[1, 2], [2], [1, 1, 2, 2]]))
    torch.testing.assert_close(embedding, torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.75, 0.25]]))


def test_the_vocabulary_is_embedded_once_and_anew_for_other_weights(
    static_config, labels, tiny_encoder, tmp_path, monkeypatch
):
    calls: list[int] = []
    embed = static.token_embeddings
    monkeypatch.setattr(static, "token_embeddings", lambda *given: calls.append(1) or embed(*given))
    folder = shutil.copytree(tiny_encoder, tmp_path / "model")
    config = static_config.model_copy(update={"model": str(folder)})

    def words() -> torch.Tensor:
        return build(config, labels, TEXTS).network.module.tables()["words"].weight

    first, second = words(), words()
    assert torch.equal(first, second)
    assert len(calls) == 1
    other = AutoModel.from_pretrained(tiny_encoder)
    with torch.no_grad():
        other.embeddings.word_embeddings.weight.neg_()
    other.save_pretrained(folder)
    assert not torch.equal(words(), first)
    assert len(calls) == 2


def test_the_products_of_neighbours_are_averaged_by_hand():
    module = StaticModule(4, 2, 8, 3, pairs=True).eval()
    seen: list[torch.Tensor] = []
    module.hidden.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, 2:]))
    with torch.no_grad():
        module.words.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 0.0]]))
        module(*pad([[1, 2, 3], [1, 2], [1]]))
    torch.testing.assert_close(seen[0], torch.tensor([[9.0, 4.0], [3.0, 8.0], [0.0, 0.0]]))


@pytest.mark.parametrize("pairs", [True, False])
def test_the_order_of_words_matters_with_pairs_alone(static_config, labels, pairs):
    student = build(static_config.model_copy(update={"pairs": pairs}), labels, TEXTS)
    one, other = (student.logits([text]) for text in ("late parcel refund", "parcel late refund"))
    assert np.allclose(one, other, atol=1e-5) != pairs


@pytest.mark.parametrize("pairs", [True, False])
def test_it_survives_the_disk_with_pairs_or_without(static_config, labels, tmp_path, pairs):
    student = build(static_config.model_copy(update={"pairs": pairs}), labels, TEXTS)
    student.save(tmp_path)
    np.testing.assert_array_equal(load_student(tmp_path).logits(TEXTS), student.logits(TEXTS))


def test_max_tokens_may_exceed_the_positions_that_it_does_not_use(static_config, labels):
    student = build(static_config.model_copy(update={"max_tokens": 200}), labels, TEXTS)
    (row,) = student.encode(["invoice " * 500])
    assert len(row) == 200
    assert student.logits(["invoice " * 500]).shape == (1, 4)
