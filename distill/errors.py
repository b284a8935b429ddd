"""Errors that a user can act on; each message names the remedy. Bugs raise Python's own exceptions instead."""

from __future__ import annotations


class DistillError(Exception):
    """Something is wrong with the task, its data or its stages; the message says what, where, and the remedy."""


class TaskError(DistillError):
    """The task file is invalid."""


class DataError(DistillError):
    """A data file cannot be read, or its contents cannot be used."""


class StoppedError(DistillError):
    """Ctrl-C ended the work; the message says what is kept and how to continue."""
