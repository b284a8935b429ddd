"""Reads which model answered: its name, and the fingerprint of the backend, as each response states them.

A vendor may serve another model under the name that was asked for, so the configured name does not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_LONGEST = 100
"""Characters that are kept of a name: a server may send anything."""


class Identity(NamedTuple):
    """The `model` and the `fingerprint` that responses state; None where they state nothing."""

    model: str | None
    fingerprint: str | None


def identity(responses: Iterable[Mapping[str, Any]]) -> Identity:
    """Read `model` and `system_fingerprint` from the responses behind one answer.

    Responses that differ are joined by `+`, in alphabetical order. Rejections state nothing.
    """
    found = list(responses)
    return Identity(
        joined(response.get("model") for response in found),
        joined(response.get("system_fingerprint") for response in found),
    )


def joined(values: Iterable[object]) -> str | None:
    """Join the distinct names among `values` by `+`; None without one. Unprintable characters become `?`."""
    names = sorted({value for value in values if isinstance(value, str) and value})
    text = "+".join(names)[:_LONGEST]
    return "".join(mark if mark.isprintable() else "?" for mark in text) or None
