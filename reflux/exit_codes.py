"""The exit codes of `reflux status`, on which rollouts are gated. Imports little, for every verb loads it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

EXIT_CODES = {"stay": 0, "watch": 1, "leave": 2, "blind": 3}
NO_ANSWER = 4
"""No verdict was read: no service, no key, a wrong use, or a body of another kind."""

_USAGE = 2


class StatusCommand(TyperCommand):
    """A command whose wrong use ends with NO_ANSWER: the usual 2 means `leave` here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", None) == _USAGE:
                error.exit_code = NO_ANSWER  # type: ignore[attr-defined]
            raise
