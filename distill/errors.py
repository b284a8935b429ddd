"""What goes wrong offline, told so that the reader knows what to do. Not for bugs: those raise what Python raises."""

from __future__ import annotations


class DistillError(Exception):
    """Something in the task, its data or its stages does not fit; the message says what, where, and the remedy."""


class TaskError(DistillError):
    """The task file is not what a task file must be."""


class DataError(DistillError):
    """A data file cannot be read, or what it holds cannot be used."""


class StoppedError(DistillError):
    """Ctrl-C ended the work; the message says what is kept and how to go on."""
