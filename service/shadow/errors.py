"""What goes wrong in shadowing, told so that the reader knows what to do. None of it ever reaches a request."""

from __future__ import annotations


class ShadowError(Exception):
    """Shadowing cannot start as configured; the message says why and what to do."""


class OutboxError(ShadowError):
    """The outbox cannot be read or written (now); the message names the file and the remedy."""


class OutboxBusyError(OutboxError):
    """Another program has locked the outbox; it lets go of it sooner or later."""
