"""Bodies that clients compress: TypeSafe's client sends zstd where its Python has it, as Python 3.14 does."""

from __future__ import annotations

import sys

from service.errors import MalformedBodyError, UnsupportedMediaTypeError

_WINDOW_LOG = 23
"""Windows of up to 2^23 bytes, all that RFC 9659 allows in HTTP: the decompressor allocates what a body asks for."""

_SHOWN = 64


def decoded(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a body without its Content-Encoding, but at most `limit` + 1 bytes of it.

    Raises UnsupportedMediaTypeError for another encoding than zstd, MalformedBodyError for a body that is not zstd.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name != b"zstd":
        shown = encoding[:_SHOWN].decode("latin-1")
        raise UnsupportedMediaTypeError(
            f"send the body as it is, or with `Content-Encoding: zstd`, not {shown!r}",
            headers={"accept-encoding": "zstd"},
        )
    return _decompressed(body, limit)


def _decompressed(body: bytes, limit: int) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        content: bytes = decompressor.decompress(body, max_length=limit + 1)
    except zstd.ZstdError as error:
        raise MalformedBodyError(f"the body is not zstd, as its Content-Encoding says: {error}") from None
    if len(content) <= limit and (not decompressor.eof or decompressor.unused_data):
        raise MalformedBodyError("the body is not one whole zstd frame; send it whole, and nothing behind it")
    return content
