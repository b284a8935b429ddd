"""Binary tensors of the Open Inference Protocol: its binary data extension.

A body is JSON, whose length a header gives, followed by the data of the tensors that have a `binary_data_size`. An item
of a BYTES tensor is its length as a little-endian uint32 and then its bytes; FP32 is little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from export.bundle.classifier import Floats
from service.errors import InvalidRequestError, MalformedBodyError

HEADER = "Inference-Header-Content-Length"

_MAX_DIGITS = 20
_LENGTH = struct.Struct("<I")


def split(body: bytes, header: bytes | None) -> tuple[bytes, bytes]:
    """Split a body into its JSON and the binary data. Raises MalformedBodyError if the header does not fit the body."""
    if header is None:
        return body, b""
    if not header.isdigit() or len(header) > _MAX_DIGITS or int(header) > len(body):
        raise MalformedBodyError(f"{HEADER}: give the number of bytes of the JSON that the body begins with")
    return body[: int(header)], body[int(header) :]


def read_strings(data: bytes, where: str, most: int) -> list[str]:
    """Decode the items of a BYTES tensor, `most` at most. Raises InvalidRequestError naming an invalid item."""
    strings: list[str] = []
    start = 0
    while start < len(data):
        if len(strings) == most:
            raise InvalidRequestError(f"{where}: at most {most} texts per request, got more")
        first = start + _LENGTH.size
        end = first + (_LENGTH.unpack_from(data, start)[0] if first <= len(data) else 1)
        if end > len(data):
            raise InvalidRequestError(f"{where}: item {len(strings)} goes beyond the end of the data")
        try:
            strings.append(data[first:end].decode())
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{where}: item {len(strings)} is not UTF-8") from None
        start = end
    return strings


def write_strings(strings: Sequence[str]) -> bytes:
    """Encode strings as a BYTES tensor."""
    items = [string.encode() for string in strings]
    return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))


def write_floats(values: Floats) -> bytes:
    """Encode values as an FP32 tensor, in row-major order."""
    return values.astype(np.dtype("<f4")).tobytes()
