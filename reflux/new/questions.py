"""Asks for what the command's options leave open, on a terminal; elsewhere says which option is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import typer

from distill.errors import DistillError

T = TypeVar("T")


class Questions:
    """Settles what a task needs to know: by an option, else by a default if `defaults` are to be taken, else by asking.

    It asks only on a `terminal`; `tell` shows there what there is to choose from, and what is wrong with an answer.
    """

    def __init__(self, *, terminal: bool, defaults: bool, tell: Callable[[str], None] = lambda line: None) -> None:
        self.terminal = terminal
        self.defaults = defaults
        self._tell = tell

    def settle(
        self, given: str | None, option: str, question: str, read: Callable[[str], T], default: str | None = None
    ) -> T:
        """Return what `read` makes of the answer. It raises DistillError for an unsuitable one, which is asked again.

        Raises DistillError for an unsuitable option, and without a terminal for one that is missing.
        """
        if given is not None:
            return read(given)
        if default is not None and self.defaults:
            return read(default)
        if not self.terminal:
            taken = ", or --yes to take what is usual or guessed" if default is not None else ""
            raise DistillError(f"there is no terminal to ask on: give {option} ({question}){taken}")
        while True:
            try:
                return read(typer.prompt(question, default=default).strip())
            except DistillError as error:
                self._tell(str(error))

    def choose(
        self, given: str | None, option: str, question: str, among: Mapping[str, str], default: str | None = None
    ) -> str:
        """Return one of some names, each with its description. On a terminal its number will do."""
        names = list(among)

        def read(answer: str) -> str:
            if answer not in among:
                raise DistillError(f"{option}: expected one of {', '.join(names)}; got {answer!r}")
            return answer

        def read_typed(answer: str) -> str:
            numbered = answer.isdecimal() and 1 <= int(answer) <= len(names)
            return names[int(answer) - 1] if numbered else read(answer)

        if given is not None:
            return read(given)
        if self.terminal and not (self.defaults and default is not None):
            for number, (name, described) in enumerate(among.items(), start=1):
                self._tell(f"  {number}  {name}: {described}")
        else:
            question = f"{question} One of {', '.join(names)}"
        return self.settle(None, option, question, read_typed, default)
