"""What a device runs is the same batch in a larger shape, and nobody sees what was added."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from export.bundle.classifier import OUTPUTS, Classifier, GraphTokenizer, InferenceError
from export.bundle.format import MODEL, TOKENIZER
from export.bundle.io_binding import BoundRun, bucket, padded
from export.bundle.providers import CPU, CUDA
from export.bundle.session import create_session

MAX_TOKENS = 128


class Session:
    """A session on the CPU that remembers the shapes it ran, and claims the provider it is told to."""

    def __init__(self, session, provider=CPU):
        self.session, self.provider, self.shapes, self.bound = session, provider, [], []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        return [self.provider, CPU]

    def get_provider_options(self):
        return {self.provider: {"device_id": "2"}}

    def io_binding(self):
        binding = self.session.io_binding()
        bind_input, bind_output = binding.bind_ortvalue_input, binding.bind_output

        def record_input(name, value):
            self.shapes.append((name, tuple(value.shape())))
            self.bound.append((name, value.device_name()))
            bind_input(name, value)

        def record_output(name, device, index):
            self.bound.append((name, device, index))
            bind_output(name, device, index)

        return SimpleNamespace(
            bind_ortvalue_input=record_input,
            bind_output=record_output,
            copy_outputs_to_cpu=binding.copy_outputs_to_cpu,
            binding=binding,
        )

    def run_with_iobinding(self, binding):
        self.session.run_with_iobinding(binding.binding)


@pytest.fixture
def session(tiny_bundle):
    return Session(create_session(tiny_bundle.path / MODEL))


@pytest.fixture
def tokenizer(tiny_bundle):
    return GraphTokenizer(tiny_bundle.path / TOKENIZER, 32)


@pytest.fixture
def bound(session, tokenizer):
    """A classifier whose runs are bound, on the CPU, and so padded."""
    execute = BoundRun(session, OUTPUTS, max_tokens=32, device="cpu")
    return Classifier(session, tokenizer, 4, execute=execute)


@pytest.fixture
def plain(tiny_bundle):
    return Classifier.load(tiny_bundle)


@pytest.mark.parametrize(
    ("shape", "most", "expected"),
    [
        *(((1, tokens), MAX_TOKENS, (1, 8)) for tokens in (1, 8)),
        ((2, 9), MAX_TOKENS, (2, 16)),
        ((3, 33), MAX_TOKENS, (4, 40)),
        ((5, 64), MAX_TOKENS, (8, 64)),
        ((8, 65), MAX_TOKENS, (8, 80)),
        ((9, 113), MAX_TOKENS, (16, 128)),
        ((64, 100), MAX_TOKENS, (64, 112)),
        ((65, 128), MAX_TOKENS, (128, 128)),
        *(((1, tokens), 10, (1, 10)) for tokens in (9, 10)),
        ((1, 3), 5, (1, 5)),
    ],
)
def test_a_bucket_is_the_next_shape_of_a_few_and_no_longer_than_the_graph_reads(shape, most, expected):
    rows, tokens = shape
    assert bucket(rows, tokens, most) == expected


def test_buckets_are_few_hold_their_batch_and_waste_little():
    shapes = {(rows, tokens): bucket(rows, tokens, 512) for rows in range(1, 257) for tokens in range(1, 513)}
    assert len({rows for rows, _ in shapes.values()}) == 9
    assert len({tokens for _, tokens in shapes.values()}) == 20
    for (rows, tokens), (height, width) in shapes.items():
        assert rows <= height < 2 * rows
        assert tokens <= width <= 512
        assert width % 8 == 0
        assert width <= max(1.25 * tokens, 8 + tokens)
        assert bucket(height, width, 512) == (height, width)


def test_what_is_added_is_masked_but_for_one_token_of_each_row():
    feeds = {"input_ids": np.full((3, 5), 7), "attention_mask": np.ones((3, 5), dtype=np.int64)}
    larger = padded(feeds, MAX_TOKENS)
    ids, mask = larger["input_ids"], larger["attention_mask"]
    assert ids.shape == mask.shape == (4, 8)
    assert ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(ids[:3, :5], feeds["input_ids"])
    assert ids.sum() == 3 * 5 * 7
    np.testing.assert_array_equal(mask, [[1] * 5 + [0] * 3] * 3 + [[1] + [0] * 7])


def test_a_batch_that_fills_its_bucket_is_left_as_it_is():
    feeds = {"input_ids": np.ones((4, 8), dtype=np.int64), "attention_mask": np.ones((4, 8), dtype=np.int64)}
    assert all(values is feeds[name] for name, values in padded(feeds, MAX_TOKENS).items())


def test_a_graph_without_a_mask_gets_no_more_tokens():
    larger = padded({"input_ids": np.ones((3, 5), dtype=np.int64)}, MAX_TOKENS)
    assert {name: values.shape for name, values in larger.items()} == {"input_ids": (4, 5)}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_bound_answers_are_those_of_a_plain_run(bound, plain, words, count):
    texts = [" ".join(own[: index + 1]) for index, own in enumerate([*words.values()] * 2)][:count]
    rows = [plain.encode(text) for text in texts]
    answers = bound.run(rows)
    assert len(answers) == count
    for answer, expected in zip(answers, plain.run(rows), strict=True):
        for name in ("probabilities", "logits", "embedding"):
            np.testing.assert_allclose(getattr(answer, name), getattr(expected, name), atol=1e-6)
        assert (answer.tokens, answer.truncated) == (expected.tokens, expected.truncated)


def test_bound_runs_have_the_shape_of_their_bucket_and_lie_on_the_device(bound, session):
    bound.run([bound.encode(text) for text in ("invoice", "my invoice is late", "login")])
    assert session.shapes == [("input_ids", (4, 8)), ("attention_mask", (4, 8))]
    assert session.bound == [("input_ids", "cpu"), ("attention_mask", "cpu"), *((name, "cpu", 0) for name in OUTPUTS)]


def test_a_row_that_was_added_cannot_fail_a_run(bound):
    assert bound.run([bound.encode("invoice")] * 3)[2].probabilities.argmax() == 0
    with pytest.raises(InferenceError, match="not probabilities"):
        bound.run([bound.encode(text) for text in ("invoice", "poison", "login")])


def test_threads_may_share_a_bound_run(bound, plain, words):
    texts = [" ".join(own[:count]) for own in words.values() for count in range(1, 11)] * 5
    expected = [plain.classify(text).probabilities for text in texts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(bound.classify, texts))
    np.testing.assert_allclose([answer.probabilities for answer in found], expected, atol=1e-6)


def test_a_session_on_a_gpu_is_run_bound_to_its_memory(session, tokenizer, monkeypatch):
    session.provider = CUDA
    asked = []

    def on_host(cls, values, device, index):
        asked.append((device, index))
        return from_numpy(values)

    from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", classmethod(on_host))
    classifier = Classifier(session, tokenizer, 4)
    assert classifier.on_gpu
    assert classifier.classify("invoice").tokens == 2
    assert asked == [("cuda", 2)] * 2
    assert session.bound[2:] == [(name, "cuda", 2) for name in OUTPUTS]
    assert session.shapes == [("input_ids", (1, 8)), ("attention_mask", (1, 8))]


def test_on_the_cpu_a_run_is_neither_padded_nor_bound(tiny_bundle, tokenizer, session):
    classifier = Classifier(session, tokenizer, 4)
    classifier.classify("invoice")
    assert session.shapes == []
