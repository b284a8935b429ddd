"""The error of every teacher."""

from __future__ import annotations


class TeacherError(Exception):
    """A teacher cannot be had or cannot answer; the message says why and what to do.

    `retryable` tells a caller whether asking again later may help (a refused connection) or not (a wrong key), `text`
    what was asked about, where that may be to blame.
    """

    def __init__(self, message: str, *, retryable: bool = False, text: str | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.text = text
