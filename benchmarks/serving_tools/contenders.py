"""The servers to measure: how each is started, the request it is sent, and where its answer has the label."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_tools import folders
from serving_tools.process import free_port

OURS = "ours"
HAND = "hand"
BARE = "bare"
PREVIOUS = "previous"
BATCH = 8
_SCRIPTS = Path(__file__).parent.parent / "serving_peers"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs: its interpreter, its bundle, the student's folder, a working folder, a port."""

    python: Path
    bundle: Path
    student: Path | None
    work: Path
    port: int


def _nothing(place: Place) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Contender:
    """One server. `command` starts it in `work`, which `prepare` has filled; `settings` are environment variables.

    `body` builds a request for a text, and `label` reads the label of an answer, if it has one. `environment` names one
    of `environments`; None is the environment of this benchmark, for servers of this repository, which serve our graph.
    `needs_student` means that the server loads the trained student instead of a graph.
    """

    key: str
    title: str
    command: Callable[[Place], Sequence[str]]
    environment: str | None = None
    path: str = "/classify"
    body: Callable[[str], Any] = lambda text: {"text": text}
    label: Callable[[Any], str] | None = lambda answer: str(answer["label"])
    prepare: Callable[[Place], None] = _nothing
    settings: Callable[[Place], Mapping[str, str]] = lambda _: {}
    needs_student: bool = False
    note: str = ""


def _script(name: str, *options: str) -> Callable[[Place], Sequence[str]]:
    """Return a function that builds the command for one of our scripts and a bundle."""

    def command(place: Place) -> Sequence[str]:
        given = ["--bundle", str(place.bundle), "--port", str(place.port)]
        return [str(place.python), str(_SCRIPTS / name), *given, *options]

    return command


def _tool(place: Place, name: str, *options: str) -> Sequence[str]:
    """Return the command for a program of an environment."""
    return [str(place.python), str(place.python.with_name(name)), *options]


def _reflux(place: Place) -> Mapping[str, str]:
    return {"REFLUX_BUNDLE": str(place.bundle), "REFLUX_HOST": "127.0.0.1", "REFLUX_PORT": str(place.port)}


def _pipeline(place: Place) -> Sequence[str]:
    given = ["--student", str(place.student), "--port", str(place.port)]
    return [str(place.python), str(_SCRIPTS / "torch_pipeline.py"), *given]


def _infinity(place: Place) -> Sequence[str]:
    options = ["v2", "--model-id", ".", "--engine", "optimum", "--device", "cpu", "--batch-size", str(BATCH)]
    switched_off = ["--no-model-warmup", "--no-vector-disk-cache", "--onnx-disable-optimize"]
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--log-level", "error"]
    return [str(place.python), str(_SCRIPTS / "infinity_server.py"), *options, *switched_off, *where]


def _infinity_label(answer: Any) -> str:
    return str(max(answer["data"][0], key=lambda one: float(one["score"]))["label"])


def _heartcut(place: Place) -> Sequence[str]:
    options = ["--factory", "--host", "127.0.0.1", "--port", str(place.port), "--no-access-log"]
    return _tool(place, "uvicorn", "heartcut.serve.app:app_from_env", *options, "--log-level", "warning")


def _open_inference(shape: Sequence[int]) -> Callable[[str], Any]:
    return lambda text: {"inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": [text]}]}


def _open_label(answer: Any) -> str:
    return next(str(output["data"][0]) for output in answer["outputs"] if output["name"] == "label")


def _bento(place: Place) -> Mapping[str, str]:
    return {
        "STUDENT_BUNDLE": str(place.bundle),
        "BENTOML_HOME": str(place.work / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONPATH": str(_SCRIPTS),
    }


def _library(place: Place) -> Mapping[str, str]:
    """Return the environment variables with the folder of libpython, which Triton's Python stub loads."""
    home = Path(sys.base_prefix) / "lib"
    return {"LD_LIBRARY_PATH": str(home)}


def _mlserver(key: str, title: str, batch: int, note: str = "") -> Contender:
    """Describe MLServer, with or without its batching."""
    return Contender(
        key=key,
        title=title,
        environment="mlserver",
        command=lambda place: _tool(place, "mlserver", "start", "."),
        prepare=lambda place: folders.mlserver(place.bundle, place.work, (place.port, free_port(), free_port()), batch),
        settings=lambda _: {"PYTHONPATH": str(_SCRIPTS)},
        path="/v2/models/student/infer",
        body=_open_inference([1]),
        label=_open_label,
        note=note,
    )


def _litserve(key: str, title: str, batch: int, note: str = "") -> Contender:
    """Describe LitServe, with or without its batching."""
    return Contender(
        key=key,
        title=title,
        environment="litserve",
        command=_script("litserve_server.py", "--batch", str(batch)),
        path="/predict",
        note=note,
    )


REFLUX = Contender(
    key=OURS,
    title="Reflux",
    command=lambda _: [sys.executable, "-m", "reflux", "serve"],
    settings=_reflux,
    label=lambda answer: str(answer["results"][0]["label"]),
)


def previous(checkout: Path) -> Contender:
    """Describe Reflux of another checkout, run by that checkout's `.venv`."""
    return Contender(
        key=PREVIOUS,
        title="Reflux, previous",
        command=lambda _: [str(checkout.resolve() / ".venv" / "bin" / "python"), "-m", "reflux", "serve"],
        settings=_reflux,
        label=REFLUX.label,
        note="another checkout; our graph",
    )


CONTENDERS = (
    REFLUX,
    Contender(
        key=BARE,
        title="minimal Python server",
        command=_script("bare.py"),
        note="validates nothing, one text after another; our graph",
    ),
    Contender(
        key=HAND,
        title="FastAPI + ONNX Runtime by hand",
        environment="hand",
        command=_script("hand.py"),
        note="session run in `async def`",
    ),
    Contender(
        key="pipeline",
        title="FastAPI + transformers pipeline",
        environment="pipeline",
        command=_pipeline,
        needs_student=True,
        note="PyTorch, float32; a class of its own, for mean pooling",
    ),
    Contender(
        key="infinity",
        title="infinity-emb 0.0.78",
        environment="infinity",
        command=_infinity,
        prepare=lambda place: folders.hugging_face(place.bundle, place.student, place.work),
        settings=lambda _: {"DO_NOT_TRACK": "1"},
        body=lambda text: {"model": "default", "input": [text]},
        label=_infinity_label,
        note="answers with all labels",
    ),
    _litserve("litserve", "LitServe 0.2.19", 1),
    _litserve("litserve-batch", "LitServe 0.2.19, batching", BATCH, f"batches of {BATCH}, 5 ms"),
    _mlserver("mlserver", "MLServer 1.7.1", 1),
    _mlserver("mlserver-batch", "MLServer 1.7.1, batching", BATCH, f"batches of {BATCH}, 5 ms"),
    Contender(
        key="bentoml",
        title="BentoML 1.4.40",
        environment="bentoml",
        command=lambda place: _tool(
            place, "bentoml", "serve", "bentoml_service:Classifier", "--host", "127.0.0.1", "--port", str(place.port)
        ),
        settings=_bento,
        body=lambda text: {"texts": [text]},
        label=lambda answer: str(answer[0]["label"]),
        note=f"adaptive batches of at most {BATCH}",
    ),
    Contender(
        key="triton",
        title="Triton (nvidia-pytriton 0.7.0)",
        environment="triton",
        command=_script("triton_server.py"),
        settings=_library,
        path="/v2/models/student/infer",
        body=_open_inference([1, 1]),
        label=_open_label,
        note=f"Python callable, dynamic batches of at most {BATCH}",
    ),
    Contender(
        key="heartcut",
        title="heartcut 0.2.1",
        environment="heartcut",
        command=_heartcut,
        prepare=lambda place: folders.heartcut(place.bundle, place.work),
        settings=lambda place: {"HEARTCUT_MODEL_DIR": str(place.work), "HEARTCUT_THREADS": "1"},
        path="/predict",
    ),
)

CONSTANT = Contender(
    key="constant",
    title="FastAPI that returns a constant",
    command=_script("constant.py"),
    label=None,
    note="validates the same body with pydantic",
)
