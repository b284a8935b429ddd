"""Progress is drawn on a terminal and told in lines elsewhere; names are printed as they are."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from distill import progress
from tests.support.waiting import wait_until

PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
ODD = "org/[red]model[/red]:rocket:[/]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """Standard error on a terminal."""
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=200, **PLAIN)
    monkeypatch.setattr(progress, "console", console)
    return file


@pytest.fixture
def lines(monkeypatch, capsys):
    """`lines(wanted)`: the lines printed to standard error, once there are so many."""
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    seen: list[str] = []

    def wait(wanted: int) -> list[str]:
        wait_until(lambda: seen.extend(capsys.readouterr().err.splitlines()) or len(seen) >= wanted)
        return seen

    return wait


def test_in_a_file_a_bar_is_lines_with_done_total_and_time_left(lines):
    with progress.bar("training small", 4000) as advance:
        assert lines(2)[0] == "training small: 0 of 4,000, time left unknown"
        advance(1000)
        count = len(lines(2))
        assert any(line.startswith("training small: 1,000 of 4,000, ") for line in lines(count + 2))
        assert lines(1)[-1].endswith(" left")


def test_in_a_file_a_bar_ends_with_what_it_took(monkeypatch, capsys):
    with progress.bar("training small", 4) as advance:
        advance(4)
    assert capsys.readouterr().err == "training small: 4 of 4, took 0 s\n"


def test_in_a_file_a_bar_that_fails_says_how_far_it_came(capsys):
    shown = progress.bar("training small", 4)
    shown.__enter__()(3)
    shown.__exit__(ValueError, ValueError("stop"), None)
    assert capsys.readouterr().err.startswith("training small: 3 of 4, ")


def test_in_a_file_asking_says_what_was_spent_and_leaves_out_what_was_known(capsys):
    with progress.labelling_bar("teacher labels the pool", 10, lambda: "$1.25") as shown:
        shown.known(4)
        shown.advance(6)
    assert capsys.readouterr().err == "teacher labels the pool: 6 of 6, $1.25, took 0 s\n"


def test_in_a_file_a_status_is_told_on_every_change_and_again_while_nothing_changes(lines, capsys):
    with progress.status("batch") as tell:
        tell("waiting")
        assert lines(3)[0] == "batch: waiting"
        assert lines(3)[2].startswith("batch: waiting, for ")
        tell("done")
        assert "batch: done" in lines(len(lines(1)) + 2)


def test_a_file_is_no_terminal_whatever_the_environment_says_of_colours(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "console", Console(stderr=True, **PLAIN))
    with progress.bar("training small", 1) as advance:
        advance(1)
    with progress.status("batch") as tell:
        tell("done")
    assert capsys.readouterr().err == "training small: 1 of 1, took 0 s\nbatch: done\n"


def test_names_are_printed_as_they_are_in_a_file(capsys):
    with progress.bar(f"training {ODD}", 1) as advance:
        advance(1)
    with progress.status(ODD) as tell:
        tell(ODD)
    assert capsys.readouterr().err.splitlines() == [f"training {ODD}: 1 of 1, took 0 s", f"{ODD}: {ODD}"]


def test_names_are_printed_as_they_are_on_a_terminal(terminal):
    with progress.bar(f"training {ODD}", 1) as advance:
        advance(1)
    with progress.status(ODD) as tell:
        tell(ODD)
        time.sleep(0.2)  # the spinner draws from a thread of its own
    assert f"training {ODD}" in terminal.getvalue()
    assert f"{ODD}: {ODD}" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (93900, "26 h 5 min")],
)
def test_durations_are_for_people(seconds, said):
    assert progress.duration(seconds) == said
