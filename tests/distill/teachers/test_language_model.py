"""A language model reads what rows have in common once, and says of each row what it says of it alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from distill.errors import DistillError
from distill.teachers.language_model import LanguageModel, with_merges

FAMILIES = ("gpt2", "llama", "mistral")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tiny_causal):
    return tiny_causal(request.param)


@pytest.fixture(scope="module")
def model(folder) -> LanguageModel:
    return LanguageModel.load(str(folder))


@pytest.fixture(scope="module")
def alone(folder):
    """`alone(ids)`: log probabilities after each token, [T, V], of one row without padding or cache."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()

    def scores(ids):
        with torch.no_grad():
            return network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1).numpy()

    return scores


def rows_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 400, length).tolist() for length in lengths]


START = rows_of(30, seed=1)[0]  # longer than the window of `mistral`


def test_rows_of_any_length_are_read_as_each_is_alone(model, alone):
    rows = rows_of(3, 20, 1, 9, 20)
    expected = [alone(row)[-1] for row in rows]
    np.testing.assert_allclose(model.next_tokens(rows), expected, atol=1e-4)


def test_rows_after_a_shared_prefix_are_read_as_each_is_whole(model, alone):
    rows = [[*START, *row] for row in rows_of(3, 20, 1, 9)]
    prefix = model.prefix(START)
    for _ in range(2):  # the prefix is as it was after it was used
        found = model.next_tokens(rows, prefix)
        np.testing.assert_allclose(found, [alone(row)[-1] for row in rows], atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_of_several_tokens_add_up_token_by_token(model, alone, shared, batch_size):
    row, answers = [*START, *rows_of(7)[0]], rows_of(1, 4, 2, 1, 6, seed=2)
    expected = []
    for answer in answers:
        scores = alone([*row, *answer])[len(row) - 1 :]
        expected.append(sum(scores[place, token] for place, token in enumerate(answer)))
    prefix = model.prefix(START) if shared else None
    found = model.continuations(row, answers, prefix, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_context_is_that_of_the_model(tiny_causal):
    assert LanguageModel.load(str(tiny_causal("gpt2", positions=64))).context == 64


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_changes_where_and_not_what(tiny_causal, device_map):
    folder = tiny_causal("llama")
    mapped, plain = LanguageModel.load(str(folder), device_map=device_map), LanguageModel.load(str(folder))
    rows = [[*START, *row] for row in rows_of(3, 9)]
    np.testing.assert_allclose(
        mapped.next_tokens(rows, mapped.prefix(START)), plain.next_tokens(rows, plain.prefix(START)), atol=1e-5
    )


def test_a_dtype_is_obeyed(tiny_causal):
    assert LanguageModel.load(str(tiny_causal("llama")), dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_model_without_keys_and_values_is_refused(tiny_causal, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal("llama"))
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    mamba = LanguageModel(MambaForCausalLM(config), tokenizer)
    with pytest.raises(DistillError, match="MambaForCausalLM has no key-value cache"):
        mamba.prefix(START)


def test_weights_that_are_not_there_are_not_drawn_at_random(tiny_encoder):
    with pytest.raises(DistillError, match=r"(carries no weights for|cannot be loaded)"):
        LanguageModel.load(str(tiny_encoder))


def test_what_cannot_be_loaded_is_said(tmp_path, tiny_causal):
    with pytest.raises(DistillError, match="cannot be loaded"):
        LanguageModel.load(str(tmp_path))
    with pytest.raises(DistillError, match="pip install gguf"):
        LanguageModel.load(str(tiny_causal("llama")), gguf_file="none.gguf")


def test_scores_of_merges_are_taken_for_merges():
    pieces = ["<unk>", *"abcdef", "ab", "de", "ef", "abc"]
    scores = [*[-1000.0] * 7, -1.0, -2.0, -3.0, -50000.0]  # a merge's is its rank, not its probability
    parts = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "byte_fallback": False,
            "vocab": [list(pair) for pair in zip(pieces, scores, strict=True)],
        },
    }
    mistaken = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), unk_token="<unk>")
    assert mistaken.tokenize("abc") == ["ab", "c"]
    right = with_merges(mistaken)
    assert right.tokenize("abc") == ["abc"]
    assert right.tokenize("def") == ["de", "f"]
    assert right.unk_token == "<unk>"
    assert right.get_vocab() == mistaken.get_vocab()


def test_other_tokenizers_are_left_as_they_are(model):
    assert with_merges(model.tokenizer) is model.tokenizer
