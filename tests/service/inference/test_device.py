"""The settings choose the device, and a GPU gets larger batches from one worker."""

import dataclasses
import threading
import time

import numpy as np
import onnxruntime
import pytest
from structlog.testing import capture_logs

from export.bundle import session
from export.bundle.classifier import OUTPUTS, Classifier, Encoded, InferenceError
from export.bundle.format import CARD, FP16, GOLDEN, MODEL, REFERENCE, TOKENIZER, write_bundle
from export.bundle.io_binding import BoundRun
from export.bundle.providers import CPU, CUDA, MOST_ROWS, Device
from service.errors import StartupError
from service.inference import load as loading
from service.inference.autotune import GPU_BUDGETS, Overrides, Tuning, choose
from service.inference.batching import ALONE, Limits
from service.inference.load import MEASURED, load
from service.inference.registry import _device

TEXTS = ["one two three"] * 5


class Graph:
    """A graph on a GPU: a run costs the same however many rows it has. It records the numbers of rows."""

    packed = False

    def __init__(self):
        self.rows = []

    def encode(self, text):
        return Encoded([1] * 64, False)

    def run(self, rows):
        self.rows.append(len(rows))
        return []


@pytest.fixture
def on_gpu(monkeypatch):
    """Let every classifier run as on a GPU, bound and padded, though on the CPU."""
    init = Classifier.__init__

    def bound(self, session, tokenizer, classes):
        execute = BoundRun(session, OUTPUTS, max_tokens=tokenizer.max_tokens, device="cpu")
        init(self, session, tokenizer, classes, execute=execute)
        self.provider = CUDA

    monkeypatch.setattr(Classifier, "__init__", bound)


def tuned(overrides=MEASURED, *, batches=True, gpu=True, cpus=8):
    graph = Graph()
    return choose(lambda threads: graph, TEXTS, overrides, cpus=cpus, batches=batches, gpu=gpu)[0], graph


def test_a_gpu_has_one_worker_and_large_batches():
    tuning, graph = tuned()
    assert (tuning.workers, tuning.threads) == (1, 1)
    assert tuning.limits.rows == MOST_ROWS
    assert tuning.limits.tokens in GPU_BUDGETS
    assert set(graph.rows) == {1, 64, MOST_ROWS}  # 4096 tokens, and the most rows, of texts of 64


class Warming(Graph):
    """A graph whose first run of a thread is slow, as on a GPU."""

    def __init__(self):
        super().__init__()
        self.met = set()

    def run(self, rows):
        thread = threading.current_thread()
        if thread not in self.met:
            self.met.add(thread)
            time.sleep(0.05)
        return super().run(rows)


def test_the_first_runs_of_a_thread_on_a_gpu_are_not_measured():
    graph = Warming()
    tuning, _ = choose(lambda threads: graph, TEXTS, MEASURED, cpus=8, batches=True, gpu=True)
    assert tuning.cost.seconds(64, 1) < 0.05


def test_a_run_that_fails_while_a_gpu_is_measured_stops_the_start():
    class Failing(Graph):
        def run(self, rows):
            raise InferenceError("out of memory")

    with pytest.raises(InferenceError, match="out of memory"):
        choose(lambda _: Failing(), TEXTS, Overrides(workers=2), cpus=8, batches=True, gpu=True)


@pytest.mark.parametrize(
    ("overrides", "workers", "limits"),
    [
        (Overrides(workers=2, batch_tokens=999), 2, Limits(999, MOST_ROWS)),
        (Overrides(batch_tokens=0), 1, ALONE),
        (Overrides(workers=0, batch_tokens=0), 0, ALONE),
    ],
)
def test_settings_hold_on_a_gpu_too(overrides, workers, limits):
    tuning, _ = tuned(overrides)
    assert (tuning.workers, tuning.limits) == (workers, limits)


def test_texts_that_must_not_share_a_run_do_not_on_a_gpu(on_gpu):
    assert tuned(batches=False)[0].limits == ALONE


def test_a_bundle_on_a_gpu_is_tested_and_tuned_for_it(tiny_bundle, on_gpu):
    loaded = load(tiny_bundle.path)
    assert loaded.stages[0].tuning.workers == 1
    assert loaded.stages[0].tuning.limits == ALONE or loaded.stages[0].tuning.limits.rows == MOST_ROWS


def test_a_bundle_on_the_cpu_is_tuned_for_the_cpu(tiny_bundle, monkeypatch):
    given = []
    monkeypatch.setattr(
        loading, "choose", lambda make, *_, gpu, **__: given.append(gpu) or (Tuning(1, 1, ALONE), make(1))
    )
    load(tiny_bundle.path)
    assert given == [False]


@pytest.mark.parametrize(
    ("variant", "change", "batches"),
    [("fp32", 5e-4, True), ("fp32", 5e-3, False), (FP16, 5e-3, True), (FP16, 5e-2, False)],
)
def test_with_float16_texts_may_share_a_run_despite_larger_changes(
    tiny_bundle, tmp_path, monkeypatch, variant, change, batches
):
    contents = {name: tiny_bundle.path / name for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN, CARD)}
    manifest = dataclasses.replace(tiny_bundle.manifest, variant=variant)
    bundle = write_bundle(tmp_path / "bundle", contents, manifest)
    given = []
    monkeypatch.setattr(loading, "neighbours_change", lambda *_: change)
    monkeypatch.setattr(
        loading, "choose", lambda make, *_, batches, **__: given.append(batches) or (Tuning(1, 1, ALONE), make(1))
    )
    load(bundle.path)
    assert given == [batches]


def test_an_unavailable_device_stops_the_start(tiny_bundle, monkeypatch):
    with pytest.raises(StartupError, match="device cuda: this build of ONNX Runtime has no"):
        load(tiny_bundle.path, device=Device("cuda"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(session, "_gpus_of_driver", lambda: 1)
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(StartupError, match="see that a GPU"):
        load(tiny_bundle.path)


def test_the_settings_say_which_device(make_settings, tmp_path):
    assert _device(make_settings()) == Device("auto", 0, None, False)
    settings = make_settings(device="tensorrt", device_id=1, tensorrt_cache=tmp_path, tensorrt_fp16=True)
    assert _device(settings) == Device("tensorrt", 1, tmp_path, True)


async def test_the_device_of_the_settings_is_used_and_the_log_says_what_serves(running):
    with capture_logs() as log:
        async with running(device="cpu"):
            pass
    assert [line["provider"] for line in log if line["event"] == "inference"] == [CPU]
    with pytest.raises(StartupError, match="device cuda"):
        async with running(device="cuda"):
            pass


async def test_a_service_for_gpus_without_one_warns_and_answers_on_the_cpu(running, monkeypatch):
    def warnings(log):
        return [line["event"] for line in log if line["log_level"] == "warning" and "GPU" in line["event"]]

    with capture_logs() as log:
        async with running():
            pass
    assert warnings(log) == []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(session, "_gpus_of_driver", lambda: 0)
    with capture_logs() as log:
        async with running() as client:
            assert (await client.post("/classify", json={"text": "invoice"})).status_code == 200
    assert warnings(log) == ["no GPU was found, so the CPU answers; with REFLUX_DEVICE=cuda this stops the start"]
    with capture_logs() as log:
        async with running(device="cpu"):
            pass
    assert warnings(log) == []


def test_answers_on_a_gpu_are_those_of_the_cpu(tiny_bundle, on_gpu, request):
    texts = ["invoice", "my parcel is late", "login password email"]
    found = load(tiny_bundle.path).stages[0].classifier
    assert found.on_gpu
    rows = found.run([found.encode(text) for text in texts])
    request.getfixturevalue("monkeypatch").undo()
    plain = Classifier.load(tiny_bundle)
    np.testing.assert_allclose(
        [row.probabilities for row in rows], [plain.classify(text).probabilities for text in texts], atol=1e-6
    )
