"""The error of every delivery that fails."""

from __future__ import annotations


class DeliveryError(Exception):
    """A bundle could not be pushed or pulled; the message says where, why, and the remedy."""


class TransientError(DeliveryError):
    """A failure that a retry may mend. `wait` is how many seconds the server asked to wait, if it did."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait
