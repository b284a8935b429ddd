"""Verbs that come before a task: `estimate` says whether a student would pay, `new` writes the task."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Annotated

import typer

from reflux.commands.common import console
from reflux.exit_codes import NO_CLOSED_QUESTION

app = typer.Typer()

MILLISECONDS, USD_PER_HOUR = 5.0, 0.05


def _finite(value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise typer.BadParameter("expected a finite number")
    return value


def _price(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not all(0 <= usd < inf for usd in value):
        raise typer.BadParameter("a price is 0 or more, such as 0.4 1.6")
    return value


@app.command()
def estimate(
    log: Annotated[Path, typer.Argument(help="Log of prompts and answers: JSONL.")],
    question: Annotated[
        int | None, typer.Option(min=1, help="Number of the question; by default the closed one with the most calls.")
    ] = None,
    per_month: Annotated[
        float | None, typer.Option(min=1, callback=_finite, help="Calls a month; by the log's times by default.")
    ] = None,
    usd_per_million: Annotated[
        tuple[float, float] | None,
        typer.Option(callback=_price, help="Dollars per million tokens, read and written; list prices by default."),
    ] = None,
    milliseconds: Annotated[
        float,
        typer.Option(
            min=0.001, callback=_finite, help="What a student takes per text, on one core; `reflux run` measures it."
        ),
    ] = MILLISECONDS,
    usd_per_hour: Annotated[
        float, typer.Option(min=0.0, callback=_finite, help="Dollars per hour of a core.")
    ] = USD_PER_HOUR,
    write: Annotated[
        Path | None, typer.Option(help="New folder for the question's texts and labels, for `reflux new`.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Also write all that was found to this file.")
    ] = None,
) -> None:
    """Say from a log of prompts and answers what a student would save. Makes no call.

    Exit code: 0, or 3 if no question in the log is a classification.
    """
    from distill.stages import write_atomic
    from distill.teachers.api.pricing import Price
    from reflux.estimate import report
    from reflux.estimate.estimate import Assumed, estimate
    from reflux.estimate.write import free_folder, new_tasks, write_question

    price = None if usd_per_million is None else Price(input=usd_per_million[0], output=usd_per_million[1])
    found = estimate(log, Assumed(price, per_month, milliseconds, usd_per_hour), question)
    for line in report.lines(found.document):
        console.print(line)
    if json_file is not None:
        write_atomic(json_file, json.dumps(found.document, indent=2, ensure_ascii=False) + "\n")
    if found.question is None:
        raise typer.Exit(NO_CLOSED_QUESTION)
    if write is None:
        again = ["reflux", "estimate", str(log), "--question", str(found.document["number"])]
        if per_month is not None:
            again += ["--per-month", f"{per_month:.15g}"]
        if usd_per_million is not None:
            again += ["--usd-per-million", *(f"{usd:.15g}" for usd in usd_per_million)]
        if milliseconds != MILLISECONDS:
            again += ["--milliseconds", f"{milliseconds:.15g}"]
        if usd_per_hour != USD_PER_HOUR:
            again += ["--usd-per-hour", f"{usd_per_hour:.15g}"]
        again += ["--write", str(free_folder(f"{log.stem}-texts"))]
        _suggest([(shlex.join(again), "its texts and labels, for `reflux new`")])
        return
    write_question(found.question, write)
    about = found.document["question"]
    _suggest([(shlex.join(one), does) for one, does in new_tasks(write, about, usd_per_million)])


@app.command()
def new(
    data: Annotated[str | None, typer.Argument(help="File of texts: CSV, JSONL or Parquet.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of labels, given by people or by a model.")] = None,
    no_label: Annotated[bool, typer.Option("--no-label", help="No column holds labels.")] = False,
    test: Annotated[
        Path | None, typer.Option(help="File of the rows that judge the students; held out of DATA by default.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Character between the fields of a CSV file, or `tab`; detected by default.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="The labels, separated by commas, or a text file with one a line.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="What you have: gold, answers, local, decisions, openai, anthropic, causal, bundle or recorded."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The teacher's model, or the folder of a bundle.", show_default=False)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of the teacher's server; the vendor's by default.")
    ] = None,
    dialect: Annotated[str | None, typer.Option(help="Of `decisions`: openai or systemone.")] = None,
    method: Annotated[str | None, typer.Option(help="How it is asked: logprobs, votes or verbalised.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the key.")] = None,
    usd_per_million: Annotated[
        tuple[float, float] | None, typer.Option(help="Dollars per million tokens, read and written.")
    ] = None,
    usd_per_1000: Annotated[
        float | None, typer.Option(min=0.0, help="What the recorded answers to 1,000 texts cost, for the report.")
    ] = None,
    terms: Annotated[
        str | None,
        typer.Option(help="Where the terms stand that let you train on the answers, and when you read them."),
    ] = None,
    logits: Annotated[Path | None, typer.Option(help="Of `recorded`: the .npz file.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the task; that of the file by default.")] = None,
    to: Annotated[Path | None, typer.Option(help="New folder to write; the task's name by default.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take what is guessed or usual; ask only for the rest.")
    ] = False,
) -> None:
    """Write a task file for your own data: asks for what the options leave open. Overwrites nothing."""
    from reflux.new.new import NO_LABEL, Options, new
    from reflux.new.questions import Questions
    from reflux.new.teachers import Given

    if no_label and label is not None:
        raise typer.BadParameter("give --label or --no-label, not both")
    given = Given(model, base_url, dialect, method, key_env, usd_per_million, usd_per_1000, terms)
    options = Options(
        data, text, NO_LABEL if no_label else label, test, delimiter, labels, teacher, logits, name, to, given
    )
    written = new(options, Questions(terminal=sys.stdin.isatty(), defaults=yes, tell=console.print))
    for line in written.settled:
        console.print(line)
    console.print(f"{written.task}: written; read it, it says what each choice means")
    for line in written.to_do:
        console.print(f"before the teacher is asked: {line}")
    task = shlex.quote(str(written.task))
    check = (f"reflux check {task}", "duplicates, leakage between splits, enough data?")
    read = (f"reflux label {task}", "reads the recorded answers; then check measures how well they are learnt")
    price = (f"reflux label {task} --dry-run", "what the teacher will cost, without a call")
    everything = (f"reflux run {task}", "everything; --max-usd bounds what the teacher may cost")
    first = [read, check] if written.recorded else [check, *([price] if written.priceable else [])]
    _suggest([*first, everything])


def _suggest(commands: Sequence[tuple[str, str]]) -> None:
    """Print the commands to go on with, each with what it does."""
    console.print("next:")
    width = max(len(command) for command, _ in commands)
    for command, does in commands:
        console.print(f"  {command:<{width}}  # {does}")
