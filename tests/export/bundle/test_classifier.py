"""A text's answer is its own: no neighbour, thread or order changes it, and no answer that is not a number is given."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models

from export.bundle.classifier import OUTPUTS, Classifier, GraphTokenizer, InferenceError, _executor
from export.bundle.format import MODEL, TOKENIZER, BundleError
from export.bundle.io_binding import BoundRun
from export.bundle.providers import CPU, CUDA
from export.bundle.session import create_session
from tests.support.tiny_bundle import rewritten

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    """One classifier, shared as the service shares it."""
    return Classifier.load(tiny_bundle)


@pytest.fixture(scope="module")
def texts(words):
    """Texts of 0 to 40 words, more than the graph reads."""
    generator = random.Random(0)
    pool = [word for own in words.values() for word in own]
    return ["", *(" ".join(generator.choices(pool, k=generator.randint(1, 40))) for _ in range(199))]


@pytest.fixture
def reseal(tiny_bundle, tmp_path):
    """`reseal({file: bytes})`: a whole bundle like `tiny_bundle` with other files."""
    return lambda files: rewritten(tiny_bundle, tmp_path / "changed", files)


def graph(inputs=("input_ids", "attention_mask"), outputs=OUTPUTS, classes=4, value=0.25):
    """A graph that reads its inputs and answers `value` for every class."""
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zeros"], ["rows"]),
        helper.make_node("Add", ["rows", "values"], ["answer"]),
        *(helper.make_node("Identity", ["answer"], [name]) for name in outputs),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zeros", TensorProto.FLOAT, [1, classes], [0.0] * classes),
        helper.make_tensor("values", TensorProto.FLOAT, [1, classes], [value] * classes),
    ]
    taken = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "constant", taken, given, constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_an_answer_is_a_distribution_with_its_logits_and_embedding(classifier, tiny_bundle):
    answer = classifier.classify("my invoice")
    assert answer.probabilities.dtype == answer.logits.dtype == answer.embedding.dtype == np.float32
    assert answer.probabilities.shape == answer.logits.shape == (4,)
    assert answer.embedding.ndim == 1
    assert answer.probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    scaled = np.exp(answer.logits / tiny_bundle.manifest.temperature)
    np.testing.assert_allclose(answer.probabilities, scaled / scaled.sum(), atol=1e-6)
    assert tiny_bundle.manifest.labels[answer.probabilities.argmax()] == "billing"


def test_an_answer_depends_on_neither_order_nor_threads(classifier, texts):
    alone = {text: classifier.classify(text) for text in texts}
    shuffled = random.Random(1).sample(texts, len(texts)) * 5
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(classifier.classify, shuffled))
    for text, answer in zip(shuffled, together, strict=True):
        for name in ("probabilities", "logits", "embedding"):
            np.testing.assert_array_equal(getattr(answer, name), getattr(alone[text], name))
        assert (answer.tokens, answer.truncated) == (alone[text].tokens, alone[text].truncated)


def test_many_texts_get_what_each_gets_alone(classifier, texts):
    seen = []
    rows = classifier.probabilities(texts, track=lambda items: (seen.append(item) or item for item in items))
    np.testing.assert_array_equal(rows, np.stack([classifier.classify(text).probabilities for text in texts]))
    assert seen == texts


def test_no_texts_get_no_rows(classifier):
    assert classifier.probabilities([]).shape == (0, 4)


@pytest.mark.parametrize(
    ("count", "tokens", "truncated"), [(0, 1, False), (30, 31, False), (31, 32, False), (32, 32, True), (500, 32, True)]
)
def test_the_graph_reads_max_tokens_and_says_when_there_were_more(classifier, count, tokens, truncated):
    answer = classifier.classify("invoice " * count)
    assert (answer.tokens, answer.truncated) == (tokens, truncated)


def test_what_is_beyond_max_tokens_changes_nothing(classifier):
    read = "invoice " * 31
    cut = classifier.classify(read + "parcel " * 40)
    np.testing.assert_array_equal(cut.probabilities, classifier.classify(read).probabilities)
    last = classifier.classify("invoice " * 30 + "parcel " * 40)
    assert (last.probabilities != cut.probabilities).any()


def test_truncation_in_the_tokenizer_file_does_not_matter(tiny_bundle, tmp_path):
    tokenizer = Tokenizer.from_file(str(tiny_bundle.path / TOKENIZER))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / TOKENIZER))
    encoded = GraphTokenizer(tmp_path / TOKENIZER, 8).encode("invoice " * 6)
    assert (len(encoded.ids), encoded.truncated) == (7, False)


@pytest.mark.parametrize("text", ["", " ", "\n\t\0", "🙂", "\u2028", "a" * 100_000])
def test_any_text_gets_an_answer(classifier, text):
    assert np.isfinite(classifier.classify(text).probabilities).all()


def test_values_that_are_not_numbers_are_an_error(classifier):
    with pytest.raises(InferenceError, match="not probabilities"):
        classifier.classify("poison")
    assert classifier.classify("invoice").tokens == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"value": float("nan")}, "not probabilities"),
        ({"value": float("inf")}, "not probabilities"),
        ({"classes": 3}, r"\(1, 3\)"),
    ],
)
def test_no_values_but_numbers_for_the_labels_pass(reseal, wrong, message):
    with pytest.raises(InferenceError, match=message):
        Classifier.load(reseal({MODEL: graph(**wrong)})).classify("invoice")


def test_a_run_that_fails_is_an_error_of_ours(reseal, tiny_bundle):
    model = onnx.load(tiny_bundle.path / MODEL)
    rows = next(item for item in model.graph.initializer if item.name == "embeddings")
    few = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(rows)[:3], "embeddings")
    rows.CopyFrom(few)
    classifier = Classifier.load(reseal({MODEL: model.SerializeToString()}))
    with pytest.raises(InferenceError, match=r"the graph failed on \(1, 2\) tokens"):
        classifier.classify("invoice")


def test_a_graph_may_take_the_ids_alone(reseal):
    answer = Classifier.load(reseal({MODEL: graph(inputs=("input_ids",))})).classify("invoice")
    np.testing.assert_array_equal(answer.probabilities, np.full(4, 0.25, dtype=np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": ("input_ids", "token_type_ids")},
        {"inputs": ("attention_mask",)},
        {"outputs": ("logits", "embedding")},
        {"outputs": ("scores",)},
    ],
)
def test_a_graph_with_other_inputs_or_outputs_is_refused(reseal, wrong):
    with pytest.raises(BundleError, match=r"the graph takes .* and returns .*expected .*input_ids.*logits"):
        Classifier.load(reseal({MODEL: graph(**wrong)}))


def test_a_session_has_the_threads_it_was_given_and_none_that_spin(tiny_bundle):
    options = create_session(tiny_bundle.path / MODEL, threads=3).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_classifier_runs_on_as_many_threads_as_asked(tiny_bundle, monkeypatch):
    made = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, **kwargs: made.append(args) or session(*args, **kwargs)
    )
    Classifier.load(tiny_bundle)
    Classifier.load(tiny_bundle, threads=2)
    assert [options.intra_op_num_threads for _, options in made] == [1, 2]


def test_a_classifier_that_gave_its_memory_back_answers_as_before(tiny_bundle):
    classifier = Classifier.load(tiny_bundle)
    rows = [classifier.encode("my parcel is late " * 4)] * 64
    before = classifier.run(rows)
    asked = []
    session = classifier._session
    classifier._session = SimpleNamespace(run=lambda *given: asked.append(given[2]) or session.run(*given))
    classifier.shrink()
    assert [one.get_run_config_entry("memory.enable_memory_arena_shrinkage") for one in asked] == ["cpu:0"]
    for one, other in zip(before, classifier.run(rows), strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_importing_the_runtime_turns_telemetry_off():
    code = """
import onnxruntime
calls = []
onnxruntime.disable_telemetry_events = lambda: calls.append(1)
import export.bundle.classifier
print(len(calls))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_importing_the_runtime_leaves_nothing_in_the_home(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-c", "import export.bundle.classifier"],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
        check=True,
    )
    assert [*tmp_path.iterdir()] == []


def test_a_packed_graph_runs_in_its_own_shapes_on_a_gpu_too():
    session = SimpleNamespace(
        get_providers=lambda: [CUDA, CPU], get_provider_options=lambda: {CUDA: {"device_id": "0"}}, run=list
    )
    assert cast(partial, _executor(session, 32, packed=True)).func is session.run
    assert isinstance(_executor(session, 32, packed=False), BoundRun)


def test_what_a_graph_cannot_read_is_an_inference_error(tiny_bundle):
    classifier = Classifier.load(tiny_bundle)
    classifier._takes_mask = False  # so that an input is missing
    with pytest.raises(InferenceError, match="attention_mask"):
        classifier.classify("my parcel is late")


def test_tokens_that_the_vocabulary_does_not_have_are_counted(classifier, words):
    known = next(iter(words.values()))[0]
    answers = classifier.run([classifier.encode(text) for text in (known, f"{known} ☃ zzgq {known}", known)])
    assert [answer.unknown for answer in answers] == [0, 2, 0]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (models.WordLevel({"a": 0, "?": 1}, unk_token="?"), 1),
        (models.Unigram([("a", -1.0), ("?", -2.0)], unk_id=1), 1),
        (models.BPE({"a": 0, "?": 1}, [], unk_token="?"), 1),
        (models.BPE({"a": 0}, []), None),
        (models.Unigram([("a", -1.0), (" ", -2.0)]), None),
    ],
)
def test_the_unknown_token_is_that_of_the_tokenizer(tmp_path, model, expected):
    file = tmp_path / TOKENIZER
    Tokenizer(model).save(str(file))
    assert GraphTokenizer(file, 8).unknown_id == expected
