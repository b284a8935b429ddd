"""A student of n-grams sees pairs of words, hashes them into its buckets, and needs a tokenizer alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from distill.errors import DistillError
from distill.students.ngrams import NgramsModule, build
from distill.students.padding import pad


@pytest.fixture
def make(ngrams_config, labels):
    """`make(**settings)`: an untrained student."""

    def build_with(**settings):
        torch.manual_seed(0)
        return build(ngrams_config.model_copy(update=settings), labels)

    return build_with


def embeddings(module, rows):
    with torch.inference_mode():
        return module.eval()(*pad(rows))[1]


def test_the_embedding_is_the_mean_of_the_vectors_of_all_n_grams_by_hand():
    module = NgramsModule(buckets=50, width=2, longest=3, classes=3)
    vectors = module.vectors.weight.detach()

    def bucket(*ids):
        value = ids[0]
        for token in ids[1:]:
            value = (value * 1_000_003 + token + 1) % (2**31 - 1)
        return value % 50

    grams = [(7,), (8,), (60,), (7, 8), (8, 60), (7, 8, 60)]
    expected = torch.stack([vectors[bucket(*gram)] for gram in grams]).mean(0)
    found = embeddings(module, [[7, 8, 60], [9], [1, 2, 3, 4, 5]])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], vectors[bucket(9)])


def test_the_order_of_words_matters_unless_words_are_read_alone(make):
    texts = [["late parcel refund"], ["refund late parcel"]]
    one, other = (make().logits(text) for text in texts)
    assert np.abs(one - other).max() > 1e-4
    one, other = (make(longest=1).logits(text) for text in texts)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_text_may_be_longer_than_the_positions_of_its_model(make):
    (row,) = make(max_tokens=200).encode(["invoice " * 500])
    assert len(row) == 200


def test_the_largest_ids_find_a_bucket():
    module = NgramsModule(buckets=16, width=2, longest=5, classes=3)
    assert embeddings(module, [[2**31 - 1] * 6]).isfinite().all()


def test_a_tokenizer_is_all_it_needs(make, tiny_encoder, tmp_path):
    folder = tmp_path / "tokens"
    shutil.copytree(tiny_encoder, folder)
    (folder / "model.safetensors").unlink()
    assert make(model=str(folder)).encode(["late"]) == make().encode(["late"])


def test_it_takes_the_tokenizer_of_a_student(make, trained_encoder, tmp_path):
    trained_encoder.student.save(tmp_path / "ours")
    assert make(model=str(tmp_path / "ours")).encode(["late"]) == make().encode(["late"])


def test_a_folder_without_a_tokenizer_is_refused(make, tmp_path):
    with pytest.raises(DistillError, match="has no fast tokenizer"):
        make(model=str(tmp_path))
