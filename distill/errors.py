"""Errors that a user can act on; each message names the remedy. Bugs raise Python's own exceptions instead."""

from __future__ import annotations

_LONGEST = 500


class DistillError(Exception):
    """Something is wrong with the task, its data or its stages; the message says what, where, and the remedy."""


class TaskError(DistillError):
    """The task file is invalid."""


class DataError(DistillError):
    """A data file cannot be read, or its contents cannot be used."""


class StoppedError(DistillError):
    """Ctrl-C ended the work; the message says what is kept and how to continue."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, cut at 500 characters; its class where it has no message."""
    message = " ".join(str(error).split())
    return (message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…") or type(error).__name__
