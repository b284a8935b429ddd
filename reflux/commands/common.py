"""What the verbs share: the console, warnings, and which errors are a message for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from reflux.exit_codes import NO_ANSWER

console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)

_EXPECTED = {
    "DistillError",
    "TeacherError",
    "BundleError",
    "DeliveryError",
    "ReplayError",
    "CanaryError",
    "ClusterError",
    "NoAnswerError",
    "GateError",
    "InferenceError",
    "StartupError",
    "ShadowError",
    "OSError",
}


def is_expected(error: Exception) -> bool:
    """Whether an error's message is meant for the user, or comes from the operating system.

    Compares names, since importing the classes would load every stage.
    """
    return any(kind.__name__ in _EXPECTED for kind in type(error).__mro__)


def print_error(error: Exception, mark: str = "error: ") -> None:
    """Print an error's message on standard error, after `mark`."""
    Console(stderr=True, soft_wrap=True).print(Text(mark, style="bold red") + Text(str(error)))


def warn(message: str) -> None:
    """Print a warning on standard error."""
    typer.echo(f"warning: {message}", err=True)


@contextmanager
def ending_without_answer() -> Iterator[None]:
    """End the command with NO_ANSWER after an expected error, because 1 and 2 are answers of verbs that judge."""
    try:
        yield
    except Exception as error:
        if not is_expected(error):
            raise
        print_error(error)
        raise typer.Exit(NO_ANSWER) from error
