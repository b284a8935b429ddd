"""The device that was asked for is the device that is used, or there is an error that says what to do."""

import ctypes
import dataclasses

import onnxruntime
import pytest

from export.bundle import session
from export.bundle.classifier import Classifier
from export.bundle.format import FP16, FUSED, INT8, MODEL, PLAIN, BundleError
from export.bundle.providers import AUTO, CPU, CUDA, TENSORRT, Device, providers
from export.bundle.session import create_session, has_gpu, lacks_gpu

CPU_BUILD = ["AzureExecutionProvider", CPU]
GPU_BUILD = [TENSORRT, CUDA, CPU]


def names(device, available, gpus=1):
    return [name for name, _ in providers(device, available, gpus=gpus, max_tokens=128)]


def options(device, max_tokens=128):
    return providers(device, GPU_BUILD, gpus=1, max_tokens=max_tokens)[0][1]


@pytest.mark.parametrize(
    ("kind", "available", "gpus", "expected"),
    [
        ("auto", CPU_BUILD, 0, [CPU]),
        ("auto", GPU_BUILD, 0, [CPU]),
        ("auto", GPU_BUILD, 1, [CUDA, CPU]),
        ("cpu", CPU_BUILD, 0, [CPU]),
        ("cpu", GPU_BUILD, 1, [CPU]),
        ("cuda", GPU_BUILD, 1, [CUDA, CPU]),
        ("cuda", GPU_BUILD, 0, [CUDA, CPU]),  # it is asked for, so that it fails to start
        ("tensorrt", GPU_BUILD, 1, [TENSORRT, CUDA, CPU]),
    ],
)
def test_a_device_gets_its_providers_best_first(kind, available, gpus, expected):
    assert names(Device(kind), available, gpus) == expected


@pytest.mark.parametrize(
    ("kind", "available", "missing"),
    [("cuda", CPU_BUILD, CUDA), ("tensorrt", CPU_BUILD, TENSORRT), ("tensorrt", [CUDA, CPU], TENSORRT)],
)
def test_a_device_that_this_build_lacks_is_an_error_with_the_remedy(kind, available, missing):
    with pytest.raises(BundleError, match=rf"device {kind}: this build .* has no {missing}.*reflux\[gpu\]"):
        names(Device(kind), available)


@pytest.mark.parametrize(
    ("device", "key", "value"),
    [
        (Device("cuda", index=3), "device_id", "3"),
        (Device("tensorrt", index=3), "device_id", "3"),
        (Device("cuda"), "use_tf32", "0"),  # fp32 is fp32 there too
        (Device("tensorrt"), "trt_fp16_enable", "0"),
        (Device("tensorrt", fp16=True), "trt_fp16_enable", "1"),
    ],
)
def test_a_device_decides_on_the_gpu_and_the_precision(device, key, value):
    assert options(device)[key] == value


@pytest.mark.parametrize(("max_tokens", "typical"), [(128, 64), (32, 32)])
def test_one_profile_covers_every_bucket(max_tokens, typical):
    given = options(Device("tensorrt"), max_tokens=max_tokens)
    assert {name: given[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")} == {
        "min": "input_ids:1x1,attention_mask:1x1",
        "opt": f"input_ids:32x{typical},attention_mask:32x{typical}",
        "max": f"input_ids:256x{max_tokens},attention_mask:256x{max_tokens}",
    }


def test_engines_are_kept_only_where_there_is_a_cache(tmp_path):
    assert not [name for name in options(Device("tensorrt")) if "cache" in name]
    assert {name: value for name, value in options(Device("tensorrt", cache=tmp_path)).items() if "cache" in name} == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
    }


def test_each_bundle_has_a_cache_of_its_own(tiny_bundle, tmp_path):
    plain = dataclasses.replace(tiny_bundle.manifest, variant=PLAIN)
    other = dataclasses.replace(plain, version="another")
    device = Device("tensorrt", cache=tmp_path)
    assert {device.for_bundle(manifest).cache for manifest in (plain, other)} == {
        tmp_path / plain.version,
        tmp_path / "another",
    }


@pytest.mark.parametrize("variant", [FUSED, INT8, FP16])
def test_tensorrt_refuses_a_graph_with_operators_that_it_does_not_know(tiny_bundle, variant):
    manifest = dataclasses.replace(tiny_bundle.manifest, variant=variant)
    with pytest.raises(BundleError, match=f"this bundle's is `{variant}`; export it with `variant: plain`"):
        Device("tensorrt").for_bundle(manifest)
    assert Device("cuda").for_bundle(manifest) == Device("cuda")


@pytest.fixture
def build(monkeypatch):
    """Let ONNX Runtime have other providers, and the driver show so many GPUs."""

    def of(available, gpus):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
        monkeypatch.setattr(session, "_gpus_of_driver", lambda: gpus)

    return of


def test_a_provider_that_does_not_start_is_an_error_and_not_the_cpu(tiny_bundle, build, recwarn):
    build(GPU_BUILD, 1)
    for device in (AUTO, Device("cuda")):
        with pytest.raises(BundleError, match=rf"{tiny_bundle.path / MODEL}: .*{CUDA}; see that a GPU.*device cpu"):
            create_session(tiny_bundle.path / MODEL, device=device)
    assert create_session(tiny_bundle.path / MODEL, device=Device("cpu")).get_providers() == [CPU]


@pytest.mark.parametrize(
    ("kind", "remedy"), [("cuda", "ask for the device cpu"), ("tensorrt", "on LD_LIBRARY_PATH, or ask for cuda")]
)
def test_a_provider_that_cannot_be_loaded_has_its_own_remedy(tiny_bundle, monkeypatch, kind, remedy):
    def fail(*_, **__):
        raise RuntimeError("no library")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: GPU_BUILD)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(BundleError, match=rf"cannot load this graph \(no library\); .*{remedy}"):
        create_session(tiny_bundle.path / MODEL, device=Device(kind))


def test_the_folder_for_engines_is_made(tiny_bundle, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: GPU_BUILD)
    cache = tmp_path / "engines" / "one"
    with pytest.raises(BundleError, match="could not start its Tensorrt"):
        create_session(tiny_bundle.path / MODEL, device=Device("tensorrt", cache=cache))
    assert cache.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=rf"{tmp_path}/file/one: cannot be made .*a directory to write to"):
        create_session(tiny_bundle.path / MODEL, device=Device("tensorrt", cache=tmp_path / "file" / "one"))


def test_other_devices_need_no_folder_for_engines(tiny_bundle, tmp_path):
    create_session(tiny_bundle.path / MODEL, device=Device("cpu", cache=tmp_path / "engines"))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_loaded_on_the_device_that_was_asked_for(tiny_bundle):
    classifier = Classifier.load(tiny_bundle, device=Device("cpu"))
    assert (classifier.provider, classifier.on_gpu) == (CPU, False)
    with pytest.raises(BundleError, match="device cuda: this build of ONNX Runtime has no"):
        Classifier.load(tiny_bundle, device=Device("cuda"))


def test_auto_is_the_cpu_where_there_is_no_gpu_and_cuda_is_an_error_there(tiny_bundle, build, recwarn):
    build(GPU_BUILD, 0)
    assert create_session(tiny_bundle.path / MODEL, device=AUTO).get_providers() == [CPU]
    with pytest.raises(BundleError, match="see that a GPU"):
        create_session(tiny_bundle.path / MODEL, device=Device("cuda"))


@pytest.mark.parametrize(
    ("available", "gpus", "has", "lacks"),
    [
        (CPU_BUILD, 0, False, False),
        (CPU_BUILD, 1, False, False),
        (GPU_BUILD, 0, False, True),
        (GPU_BUILD, 1, True, False),
    ],
)
def test_there_is_a_gpu_where_auto_would_use_one(build, available, gpus, has, lacks):
    build(available, gpus)
    assert (has_gpu(), lacks_gpu()) == (has, lacks)


@pytest.mark.parametrize(("failure", "gpus"), [(0, 2), (100, 0)])
def test_gpus_are_those_that_the_driver_shows(monkeypatch, failure, gpus):
    class Driver:
        def cuInit(self, flags):
            return failure

        def cuDeviceGetCount(self, count):
            count._obj.value = 2
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert session._gpus_of_driver.__wrapped__() == gpus


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def fail(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert session._gpus_of_driver.__wrapped__() == 0
