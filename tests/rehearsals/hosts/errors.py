"""Why a rehearsal cannot go on; its message says what to do."""

from __future__ import annotations


class RehearsalError(Exception):
    """The machine lacks something, or a program of the rehearsal did not do what it must for the rehearsal to go on."""
