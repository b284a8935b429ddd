"""HTTP requests as bytes."""

from __future__ import annotations


def request(
    body: bytes = b'{"text": "invoice"}',
    more: str = "",
    *,
    target: str = "/classify",
    method: str = "POST",
    version: str = "1.1",
    length: int | None = None,
    chunked: bool = False,
    **headers: str | None,
) -> bytes:
    """Return a request with JSON as its body, of a declared `length` that may be wrong, or `chunked` in two.

    `more` are header lines. In the names of `headers`, `_` stands for `-`; those that are None are left out.
    """
    headers = {"host": "reflux", "content_type": "application/json", **headers}
    if chunked:
        headers["transfer_encoding"] = "chunked"
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
    else:
        headers["content_length"] = str(len(body) if length is None else length)
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"{method} {target} HTTP/{version}\r\n{''.join(lines)}{more}\r\n".encode() + body
