"""Bundles with one thing wrong each, their hashes and version computed anew so that nothing else is.

`FAULTS` has them by name. A fault changes the folder of a good bundle, and says what the refusal must name.
"""

from __future__ import annotations

# mypy: disable-error-code="misc"
# A lambda with a default has no type of its own.
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from export.bundle.format import CARD, GOLDEN, MANIFEST, MODEL, REFERENCE, TOKENIZER
from export.bundle.reference import Reference

OUTSIDE = "outside"
"""A folder beside the bundle, which some faults write to."""

HUGE = 10**400


@dataclass(frozen=True)
class Fault:
    """`spoil` changes a bundle's folder; `sealed` computes hashes and version anew; `names` is in the refusal."""

    names: str
    spoil: Callable[[Path], None]
    sealed: bool = True

    def apply(self, folder: Path) -> None:
        self.spoil(folder)
        if self.sealed:
            seal(folder)


def seal(folder: Path) -> None:
    """Compute the hashes of all files that the manifest lists and are there, and the version of the content."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_bytes())
    for name in manifest["files"]:
        with suppress(OSError, ValueError):
            if not (folder / name).is_file():
                continue
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    content = {
        "files": {name: digest for name, digest in sorted(manifest["files"].items()) if name != CARD},
        "labels": manifest["labels"],
        "max_tokens": manifest["max_tokens"],
    }
    if manifest.get("multi_label"):
        content |= {"multi_label": True, "threshold": manifest["threshold"]}
    manifest["version"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    path.write_text(json.dumps(manifest))


def set_in_manifest(**values: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder, lambda manifest: manifest.update(values))


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return cut


OTHER_KINDS: dict[str, Any] = {
    "null": None,
    "true": True,
    "negative": -3,
    "zero": 0,
    "fraction": 2.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge": HUGE,
    "negative huge": -HUGE,
    "blank": " ",
    "empty text": "",
    "text": "many",
    "two lines": "a\nb",
    "half a surrogate pair": "\ud800",
    "empty list": [],
    "list": ["x"],
    "nested list": [["x"], ["y"]],
    "list of objects": [{}, {}],
    "list of numbers": [1, 2],
    "empty object": {},
    "object": {"x": 1},
    "nested object": {"x": {"y": None}},
}
FITS: Mapping[str, set[str]] = {
    "name": {"text"},
    "family": {"text"},
    "variant": {"text"},
    "role": {"text"},
    "version": set(),  # computed anew
    "labels": set(),
    "max_tokens": set(),
    "temperature": {"fraction"},
    "files": set(),
    "schema": set(),
    "multi_label": {"true"},  # no other answers than the golden ones
    "threshold": set(),
    "truncation_side": set(),
    "portable": {"null"},
    "created": {"text", "blank", "empty text", "two lines"},
    "libraries": {"empty object"},
    **{key: {"empty object", "object", "nested object"} for key in ("teacher", "gates", "measured", "cpu")},
}
"""Which of them a key of the manifest may hold."""

NEEDED = ("schema", "name", "family", "labels", "max_tokens", "variant", "temperature", "files", "version")

CALIBRATIONS: dict[str, Any] = {
    "text": "much",
    "empty": {},
    "list": [1.0],
    "unknown": {"method": "magic"},
    "zero": {"method": "temperature", "temperature": 0},
    "negative": {"method": "temperature", "temperature": -1.0},
    "huge": {"method": "temperature", "temperature": HUGE},
    "short": {"method": "vector", "scale": [1.0], "bias": [0.0]},
    "nothing": {"method": "vector", "scale": [], "bias": []},
}


def _key_faults() -> dict[str, Fault]:
    """Each key of the manifest missing, and with each kind of value that it may not hold."""
    faults: dict[str, Fault] = {}
    for key, fits in FITS.items():
        for name, value in OTHER_KINDS.items():
            if key != "version" and name not in fits:
                sealed = key not in ("files", "labels", "max_tokens")
                names = f"{MANIFEST}.*({key}|JSON)"
                faults[f"{key} is {name}"] = Fault(names, set_in_manifest(**{key: value}), sealed=sealed)
    for key in NEEDED:
        faults[f"no {key}"] = Fault(
            f"{MANIFEST}.*{key}", lambda folder, key=key: _edit(folder, lambda one: one.pop(key)), sealed=False
        )
    for name, value in OTHER_KINDS.items():
        faults[f"version is {name}"] = Fault(
            f"{MANIFEST}.*(version|JSON)", set_in_manifest(version=value), sealed=False
        )
    return faults


def _manifest_faults() -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for name, graph in {"no file": "absent.onnx", "no graph": TOKENIZER, "elsewhere": "../model.onnx"}.items():
        faults[f"portable is {name}"] = Fault(f"{MANIFEST}.*portable", set_in_manifest(portable=graph))
    for name, labels in {
        "equal": ["billing", "billing", "account", "technical"],
        "one blank": ["billing", "", "account", "technical"],
        "one of spaces": ["billing", "  ", "account", "technical"],
        "one null": ["billing", None, "account", "technical"],
        "one half a surrogate pair": ["billing", "\ud83d", "account", "technical"],
        "only one": ["billing"],
        "a text": "billing",
    }.items():
        faults[f"labels: {name}"] = Fault(f"{MANIFEST}.*'labels'", set_in_manifest(labels=labels))
    for name, labels in {"three": [*"abc"], "five": [*"abcde"], "others": [*"abcd"]}.items():
        faults[f"labels: {name}"] = Fault(f"{GOLDEN}:1.*(label|probabilities)", set_in_manifest(labels=labels))
    faults["labels in another order"] = Fault(
        GOLDEN, lambda folder: _edit(folder, lambda manifest: manifest["labels"].reverse())
    )
    outside = ("../x", "/x", "/etc/hostname", "C:\\x")
    for name in (*outside, "a/b", "..", ".", "", "\ud800", "a\0b", "x" * 300, MANIFEST + "/x"):
        faults[f"a file named {name[:14]!r}"] = Fault(
            f"{MANIFEST}.*'files'",
            lambda folder, name=name: _edit(folder, lambda one: one["files"].update({name: "0" * 64})),
        )
    for name, digest in {"short": "abc", "null": None, "number": 3, "upper": "A" * 64}.items():
        faults[f"a hash that is {name}"] = Fault(
            f"{MANIFEST}.*'files'",
            lambda folder, digest=digest: _edit(folder, lambda one: one["files"].update({MODEL: digest})),
            sealed=False,
        )
    faults["a hash of a file that is not there"] = Fault(
        "more.bin: missing", lambda folder: _edit(folder, lambda one: one["files"].update({"more.bin": "0" * 64}))
    )
    faults["a key that nobody knows"] = Fault(f"{MANIFEST}.*'colour'", set_in_manifest(colour="red"))
    faults["a key that is half a surrogate pair"] = Fault(f"{MANIFEST}.*key", set_in_manifest(**{"\ud800": 1}))
    faults["NaN within"] = Fault(f"{MANIFEST}.*NaN", set_in_manifest(measured={"x": [float("nan")]}))
    faults["half a surrogate pair within"] = Fault(f"{MANIFEST}.*'gates'", set_in_manifest(gates={"x": ["\udfff"]}))
    for name, value in CALIBRATIONS.items():
        faults[f"calibration is {name}"] = Fault(
            f"{MANIFEST}.*calibration", set_in_manifest(teacher={"calibration": value})
        )
    for name, content in {
        "empty": b"",
        "not JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "not UTF-8": b"\xff\xfe{",
        "zeros": bytes(20),
        "nested deeply": b'{"a":' * 100_000,
        "a list nested deeply": b"[" * 100_000,
        "a number of many digits": b'{"schema": ' + b"9" * 10_000 + b"}",
        "a huge exponent": b'{"schema": 1e999}',
    }.items():
        faults[f"manifest is {name}"] = Fault(MANIFEST, _write(MANIFEST, content), sealed=False)
    return faults


def _golden_row(**values: Any) -> Callable[[Path], None]:
    """Change the first golden row; a key that is to be `...` is taken out."""

    def change(folder: Path) -> None:
        first, *others = (folder / GOLDEN).read_bytes().splitlines()
        row = {key: value for key, value in {**json.loads(first), **values}.items() if value is not ...}
        (folder / GOLDEN).write_bytes(b"\n".join([json.dumps(row).encode(), *others]))

    return change


def _golden_faults() -> dict[str, Fault]:
    faults = {}
    fits = {"text": {"blank", "empty text", "text", "two lines"}}  # another text has other answers, if not the same
    for key in ("text", "label", "probabilities"):
        for name, value in {**OTHER_KINDS, "missing": ...}.items():
            if name not in fits.get(key, ()):
                faults[f"golden {key} is {name}"] = Fault(f"{GOLDEN}:1.*({key}|JSON)", _golden_row(**{key: value}))
    for name, values in {
        "NaN": [float("nan")] * 4,
        "infinite": [float("inf"), 0, 0, 0],
        "texts": ["0.25"] * 4,
        "truth values": [True, False, False, False],
        "three": [0.5, 0.25, 0.25],
        "five": [0.2] * 5,
        "digits": "0001",
        "a huge number": [HUGE, 0, 0, 0],
        "lists": [[1.0], [0.0], [0.0], [0.0]],
    }.items():
        faults[f"golden probabilities are {name}"] = Fault(f"{GOLDEN}:1", _golden_row(probabilities=values))
    for name, values in {"below 0": [-4.0, 0, 0, 0], "above 1": [3.0, 0, 0, 0], "wrong": [0.0, 1.0, 0.0, 0.0]}.items():
        faults[f"golden probabilities are {name}"] = Fault(f"{GOLDEN}.*row 1", _golden_row(probabilities=values))
    for name, content in {
        "empty": b"",
        "a blank line": b"\n",
        "not JSON": b"garbage",
        "not UTF-8": b"\xff\xff",
        "zeros": bytes(9),
        "a number": b"3",
        "null": b"null",
        "a list": b"[]",
        "nested deeply": b'{"text":' * 100_000,
    }.items():
        faults[f"golden rows are {name}"] = Fault(GOLDEN, _write(GOLDEN, content))
    faults["golden rows are cut off"] = Fault(f"{GOLDEN}:\\d", _cut(GOLDEN, 0.5))
    return faults


def _arrays(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with np.load(folder / REFERENCE) as stored:
            arrays = dict(stored)
        change(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (folder / REFERENCE).write_bytes(buffer.getvalue())

    return write


def _reference_faults() -> dict[str, Fault]:
    changes: dict[str, Callable[[np.ndarray], Any]] = {
        "of no dimension": lambda values: values[0] if len(values) else np.float64(0.5),
        "of two dimensions": lambda values: values[None],
        "longer": lambda values: np.append(values, values[-1:]),
        "shorter": lambda values: values[:-1],
        "empty": lambda values: values[:0],
        "NaN": lambda values: values * np.nan,
        "infinite": lambda values: values + np.inf,
        "negative": lambda values: -1 - values,
        "text": lambda values: values.astype(str),
        "objects": lambda values: values.astype(object),
        "complex": lambda values: values.astype(complex),
        "truth values": lambda values: values.astype(bool),
        "dates": lambda values: values.astype("datetime64[s]"),
    }
    faults = {}
    for item in dataclasses.fields(Reference):
        if (name := item.name) == "drift":
            continue
        if item.default is dataclasses.MISSING:
            faults[f"reference without {name}"] = Fault(
                f"{REFERENCE}.*{name}", _arrays(lambda arrays, name=name: arrays.pop(name))
            )
        for kind, change in changes.items():
            faults[f"reference {name} is {kind}"] = Fault(
                REFERENCE, _arrays(lambda arrays, name=name, change=change: arrays.update({name: change(arrays[name])}))
            )
    for name in ("confidence", "disagreement", "edges"):
        faults[f"reference {name} is in another order"] = Fault(
            f"{REFERENCE}.*'{name}'", _arrays(lambda arrays, name=name: arrays.update({name: arrays[name][::-1]}))
        )
    for name, value in {"share": 0.5, "rows": 0.0, "disagreements": 1e6, "null": 2.0, "spread": 1.5}.items():
        faults[f"reference {name} is {value} everywhere"] = Fault(
            f"{REFERENCE}.*'{name}'",
            _arrays(lambda arrays, name=name, value=value: arrays.update({name: np.full_like(arrays[name], value)})),
        )
    single = io.BytesIO()
    np.save(single, np.ones(3))
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    for name, content in {
        "empty": b"",
        "garbage": b"garbage",
        "one array": single.getvalue(),
        "an empty archive": b"PK\x05\x06" + bytes(18),
        "an array that says it is huge": header.ljust(128) + b"\n",
    }.items():
        faults[f"reference is {name}"] = Fault(REFERENCE, _write(REFERENCE, content))
    for share in (0.2, 0.5, 0.9, 0.99):
        faults[f"reference is cut off at {share}"] = Fault(REFERENCE, _cut(REFERENCE, share))
    return faults


def _json_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tokenizer = json.loads((folder / TOKENIZER).read_bytes())
        change(tokenizer)
        (folder / TOKENIZER).write_text(json.dumps(tokenizer))

    return write


def _more_words(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["beyond"] = len(vocabulary)


def _far_word(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"]["beyond"] = 2**31


def _added_token(tokenizer: dict[str, Any]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"].append({"id": 7_000, "content": "beyond", **flags})


def _tokenizer_faults() -> dict[str, Fault]:
    contents = {
        "empty": b"",
        "not JSON": b"{",
        "null": b"null",
        "a list": b"[]",
        "an object": b"{}",
        "not UTF-8": b"\xff",
        "a model of no kind": b'{"version": "1.0", "model": {"type": "None"}}',
    }
    faults = {
        f"tokenizer is {name}": Fault(TOKENIZER, _write(TOKENIZER, content)) for name, content in contents.items()
    }
    faults["tokenizer is cut off"] = Fault(TOKENIZER, _cut(TOKENIZER, 0.5))
    faults["tokenizer has no model"] = Fault(TOKENIZER, _json_tokenizer(lambda one: one.pop("model")))
    faults["tokenizer has another model"] = Fault(
        f"{TOKENIZER}|{GOLDEN}",
        _json_tokenizer(lambda one: one.update(model={"type": "BPE", "vocab": {"a": 0}, "merges": []})),
    )
    faults["tokenizer has no word for the unknown"] = Fault(
        f"{TOKENIZER}|{GOLDEN}", _json_tokenizer(lambda one: one["model"].update(unk_token="[NONE]"))
    )
    faults["tokenizer has no words"] = Fault(TOKENIZER, _json_tokenizer(lambda one: one["model"].update(vocab={})))
    faults["tokenizer has ids beyond the graph's"] = Fault(f"{MODEL}.*highest", _json_tokenizer(_more_words))
    faults["tokenizer has an id far from the others"] = Fault(f"{MODEL}.*highest", _json_tokenizer(_far_word))
    faults["tokenizer adds a token beyond the graph's"] = Fault(f"{MODEL}.*highest", _json_tokenizer(_added_token))
    return faults


def _graph(change: Callable[[onnx.ModelProto], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        model = onnx.load(folder / MODEL)
        change(model)
        (folder / MODEL).write_bytes(model.SerializeToString())

    return write


def _weights(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def _classes(count: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        _weights(model, "weights", np.eye(8, count, dtype=np.float32))
        for output in model.graph.output[:2]:
            output.type.tensor_type.shape.dim[1].dim_value = count

    return change


def _rename(kind: str, index: int, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, kind)[index]
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if one == value.name else one for one in names]
        value.name = name

    return change


def _input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32


def _half_logits(model: onnx.ModelProto) -> None:
    _rename("output", 0, "full")(model)
    model.graph.node.append(helper.make_node("Cast", ["full"], ["logits"], to=TensorProto.FLOAT16))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", 4]))


def _flat_logits(model: onnx.ModelProto) -> None:
    _rename("output", 0, "deep")(model)
    model.graph.node.append(helper.make_node("ReduceSum", ["deep"], ["logits"], keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, []))


def _external(location: str, *, at: str | None, listed: bool) -> Callable[[Path], None]:
    """Move the embeddings to the file `location`, which is written `at` a path beside the graph, if at all."""

    def write(folder: Path) -> None:
        model = onnx.load(folder / MODEL)
        (tensor,) = (one for one in model.graph.initializer if one.name == "embeddings")
        raw = tensor.raw_data
        if at is not None:
            (folder / at).parent.mkdir(exist_ok=True)
            (folder / at).write_bytes(raw)
        external_data_helper.set_external_data(tensor, location.replace("FOLDER", str(folder)))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        (folder / MODEL).write_bytes(model.SerializeToString())
        if listed:
            _edit(folder, lambda manifest: manifest["files"].update({location: "0" * 64}))

    return write


def _external_in_a_node(folder: Path) -> None:
    """A constant within a branch within a node, whose data is elsewhere."""
    model = onnx.load(folder / MODEL)
    tensor = numpy_helper.from_array(np.zeros(3, dtype=np.float32), "value")
    external_data_helper.set_external_data(tensor, f"../{OUTSIDE}/weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    constant = helper.make_node("Constant", [], ["far"], value=tensor)
    output = helper.make_tensor_value_info("far", TensorProto.FLOAT, [3])
    branch = helper.make_graph([constant], "branch", [], [output])
    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.extend(
        [condition, helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch)]
    )
    (folder / MODEL).write_bytes(model.SerializeToString())


EXTERNAL = _external("weights.bin", at="weights.bin", listed=True)
"""Weights in a file of their own that the manifest lists: that is no fault."""


def _graph_faults() -> dict[str, Fault]:
    faults = {
        f"graph is {name}": Fault(MODEL, _write(MODEL, content))
        for name, content in {
            "empty": b"",
            "garbage": b"garbage",
            "zeros": bytes(64),
            "text": b"hello world" * 9,
        }.items()
    }
    faults |= {f"graph is cut off at {share}": Fault(MODEL, _cut(MODEL, share)) for share in (0.1, 0.5, 0.9, 0.999)}
    for name, change in {
        "three classes": _classes(3),
        "five classes": _classes(5),
        "an input of another name": _rename("input", 0, "tokens"),
        "an output of another name": _rename("output", 1, "scores"),
        "an input of another type": _input_type,
        "logits of 16 bits": _half_logits,
        "logits of no dimension": _flat_logits,
        "no outputs": lambda model: model.graph.ClearField("output"),
        "no nodes": lambda model: model.graph.ClearField("node"),
        "no graph": lambda model: model.ClearField("graph"),
        "an operator that nobody knows": lambda model: setattr(model.graph.node[0], "op_type", "Nothing"),
        "a version of tomorrow": lambda model: setattr(model.opset_import[0], "version", 9_999),
        "fewer words": lambda model: _weights(model, "embeddings", np.zeros((20, 8), dtype=np.float32)),
    }.items():
        faults[f"graph has {name}"] = Fault(MODEL, _graph(change))
    faults["graph has other weights"] = Fault(
        GOLDEN, _graph(lambda model: _weights(model, "weights", np.eye(8, 4, k=1, dtype=np.float32)))
    )
    faults["graph has weights that are not numbers"] = Fault(
        f"{GOLDEN}|{MODEL}", _graph(lambda model: _weights(model, "weights", np.full((8, 4), np.nan, dtype=np.float32)))
    )
    for name, spoil in {
        "that are not there": _external("weights.bin", at=None, listed=False),
        "that the manifest does not list": _external("weights.bin", at="weights.bin", listed=False),
        "in another folder": _external(f"../{OUTSIDE}/weights.bin", at=f"../{OUTSIDE}/weights.bin", listed=False),
        "at a path from the root": _external("FOLDER/weights.bin", at="weights.bin", listed=False),
        "in a folder within": _external("deep/weights.bin", at="deep/weights.bin", listed=False),
        "of no name": _external("", at=None, listed=False),
        "within a branch": _external_in_a_node,
    }.items():
        faults[f"graph has weights {name}"] = Fault(f"{MODEL}.*bundle's files", spoil)
    faults["graph has weights that are listed and not there"] = Fault(
        "weights.bin: missing", _external("weights.bin", at=None, listed=True)
    )
    return faults


def _link(name: str, target: str) -> Callable[[Path], None]:
    """Replace a file by a link to `target`, where it lies now."""

    def link(folder: Path) -> None:
        place = (folder / target.replace("FOLDER", str(folder))).absolute()
        place.parent.mkdir(exist_ok=True)
        (folder / name).rename(place)
        (folder / name).symlink_to(target.replace("FOLDER", str(folder)))

    return link


def _instead(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


LINKS = {name: _link(name, f"data/{name}") for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN)}
"""Links within the bundle, such as Kubernetes makes in a volume: that is no fault."""


def _file_faults() -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN, CARD):
        pattern = re.escape(name)
        faults[f"{name} is missing"] = Fault(f"{pattern}: missing", lambda folder, name=name: (folder / name).unlink())
        faults[f"{name} is a folder"] = Fault(f"{pattern}: missing", _instead(name, Path.mkdir))
        faults[f"{name} is a pipe"] = Fault(f"{pattern}: missing", _instead(name, os.mkfifo))
        faults[f"{name} is a link to nothing"] = Fault(
            f"{pattern}: missing", _instead(name, lambda path: path.symlink_to("nowhere"))
        )
        faults[f"{name} is a link to itself"] = Fault(
            f"{pattern}|cannot be read", _instead(name, lambda path: path.symlink_to(path.name))
        )
        faults[f"{name} is a link to a file outside"] = Fault(
            f"{pattern}: a link to a file outside", _link(name, f"../{OUTSIDE}/{name}")
        )
        faults[f"{name} is a link from the root"] = Fault(
            f"{pattern}: a link to a file outside", _link(name, f"FOLDER/../{OUTSIDE}/{name}")
        )
        if name != CARD:
            faults[f"{name} is not listed"] = Fault(
                f"'files' lists no {pattern}",
                lambda folder, name=name: _edit(folder, lambda one: one["files"].pop(name)),
            )
    faults["manifest is a folder"] = Fault(f"no {MANIFEST}", _instead(MANIFEST, Path.mkdir), sealed=False)
    faults["manifest is missing"] = Fault(f"no {MANIFEST}", lambda folder: (folder / MANIFEST).unlink(), sealed=False)
    return faults


FAULTS: dict[str, Fault] = {
    **_key_faults(),
    **_manifest_faults(),
    **_golden_faults(),
    **_reference_faults(),
    **_tokenizer_faults(),
    **_graph_faults(),
    **_file_faults(),
}
