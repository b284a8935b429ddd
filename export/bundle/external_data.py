"""Find the files from which an ONNX graph reads its weights, without ONNX Runtime, which would already read them.

A graph may keep tensors in files beside it, or anywhere on the machine. In a bundle they must be files that the
manifest lists: any other has no hash, and may be missing on the next machine. This walks the protobuf messages of
onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that can hold a tensor, and skips all other bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from distill.errors import one_line
from export.bundle.format import BundleError, Manifest

_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""By message: the numbers of the fields that lead to a tensor's `external_data`, and the messages they hold."""

_KEY, _VALUE = 1, 2
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_DEEPEST = 100
"""The nesting depth at which protobuf itself stops."""

Part = tuple[str, int, int, int]
"""A message: its kind, its begin, its end, and its nesting depth."""


def check_external_files(path: Path, manifest: Manifest) -> None:
    """Raise BundleError for a graph that reads a file which is not one of the bundle's."""
    try:
        foreign = external_files(path) - set(manifest.files)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not an ONNX graph ({one_line(error)}); export the bundle again") from error
    if foreign:
        raise BundleError(
            f"{path}: the graph reads {sorted(foreign)[0]!r}, which is not among the bundle's files; "
            "export the bundle again, with all weights in the graph"
        )


def external_files(path: Path) -> set[str]:
    """Return the files that hold tensors of a graph, as the graph names them.

    Raises OSError when the graph cannot be read, and ValueError when it is not a protobuf message.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
        return set(_locations(data))


def _locations(data: mmap.mmap) -> Iterator[str]:
    parts: list[Part] = [("model", 0, len(data), 0)]
    while parts:
        kind, start, end, depth = parts.pop()
        if depth > _DEEPEST:
            raise ValueError("its messages are nested too deeply")
        if kind == "entry":
            entry = {number: data[at:stop] for number, at, stop in _fields(data, start, end)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8", "replace")
            continue
        inside = _INSIDE[kind]
        parts += [
            (inside[number], at, stop, depth + 1) for number, at, stop in _fields(data, start, end) if number in inside
        ]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, begin and end of each length-delimited field of a message.

    Raises ValueError when it is no protobuf message.
    """
    while at < end:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_FIXED_64, _FIXED_32):
            at += 8 if wire == _FIXED_64 else 4
        elif wire == _BYTES:
            length, at = _varint(data, at, end)
            if at + length <= end:
                yield tag >> 3, at, at + length
            at += length
        else:
            raise ValueError("it is no protobuf message")
    if at != end:
        raise ValueError("it is cut off, or no protobuf message")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Read a number of up to ten bytes, the lowest seven bits first; return it and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is cut off, or no protobuf message")
