"""The exit codes of verbs on which rollouts and jobs are gated. Imports little, for every verb loads it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from typer.core import TyperCommand

EXIT_CODES = {"stay": 0, "watch": 1, "leave": 2, "blind": 3}
"""Of the verdicts of `reflux status` and `reflux gap-report`."""
NO_ANSWER = 4
"""Nothing was judged: no service, no key, a wrong use, or a body of another kind."""

CHECK_EXIT_CODES = {"enough": 0, "more would help": 0, "too little": 3}
"""Of the verdicts of `reflux check`. Data that more would help can be distilled, so a script goes on. 1 is an error."""

TEACHER_CHANGED = 5
"""Of `reflux redistill`: the log's teacher is not, or no longer, the one that the student learned from."""

_USAGE = 2


class GateResult(StrEnum):
    """What a gate says of a candidate that is to replace the served bundle."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


GATE_EXIT_CODES = {GateResult.PASS: 0, GateResult.FAIL: 2, GateResult.INCONCLUSIVE: 3}
"""Of `replay`, `redistill` and `canary`. 1 is never used, so that no gate mistakes an error for an answer."""

NONE_FITS = 3
"""Of `reflux sweep`: every candidate was measured, and none is within the limits."""


NO_CLOSED_QUESTION = 3
"""Of `reflux estimate`: no question in the log is a classification."""


class StatusCommand(TyperCommand):
    """A command whose wrong use ends with NO_ANSWER: the usual 2 means `leave` or `fail` here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", None) == _USAGE:
                error.exit_code = NO_ANSWER  # type: ignore[attr-defined]
            raise
