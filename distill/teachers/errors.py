"""The error of every teacher."""

from __future__ import annotations


class TeacherError(Exception):
    """A teacher cannot be made or cannot answer; the message says why and what to do.

    `retryable` says whether a later retry may help (after a refused connection) or not (a wrong key); `text` is the
    text that was asked about, if it may be the cause.
    """

    def __init__(self, message: str, *, retryable: bool = False, text: str | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.text = text
