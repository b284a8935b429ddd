"""Errors of shadowing, whose messages name the remedy. None of them ever reaches a request."""

from __future__ import annotations


class ShadowError(Exception):
    """Shadowing cannot start as configured; the message says why, and what to do."""


class OutboxError(ShadowError):
    """The outbox cannot be read or written at the moment; the message names the file and the remedy."""


class OutboxBusyError(OutboxError):
    """Another program holds a lock on the outbox; the next attempt may succeed."""
