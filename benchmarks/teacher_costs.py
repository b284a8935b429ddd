"""Print what each kind of teacher behind an API costs for 1,000 texts, at the list prices in `prices.yaml`.

python benchmarks/teacher_costs.py

The texts are tickets of the built-in support desk, with its 15 labels and no examples. No call is made: this is the
forecast of `reflux label --dry-run`, whose values lie between bounds. docs/teachers.md has the values in its table.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill import teachers
from distill.data.support_desk import tickets
from distill.labelling.account import StoredAccount, dollars
from distill.labelling.answer_store import AnswerStore
from distill.labelling.dry_run import DryRunAccount, dry_run, priced
from distill.labelling.forecast import Forecast

SAMPLE = 200
"""Texts that the cost of 1,000 follows from."""

_TERMS = {"acknowledged": True, "reference": "no call is made"}
TEACHERS: tuple[dict[str, Any], ...] = (
    {"kind": "decisions", "model": "gpt-6-luna"},
    {"kind": "openai", "model": "gpt-4.1-mini"},
    {"kind": "anthropic", "model": "claude-haiku-4-5", "method": "votes"},
    {"kind": "anthropic", "model": "claude-haiku-4-5", "method": "verbalised"},
)


def main() -> None:
    """Print a line for each teacher."""
    for config in TEACHERS:
        print(f"{' '.join(config.values())}: {cost(config)}")


def cost(config: dict[str, Any]) -> str:
    """What the table says of a teacher: the dollars for 1,000 texts, with bounds."""
    usd = asyncio.run(forecast(config)).usd
    value, lower, upper = (dollars(end * 1000 / SAMPLE) for end in (usd.value, usd.lower, usd.upper))
    return f"{value} ({lower} to {upper})"


async def forecast(config: dict[str, Any]) -> Forecast:
    """Forecast the labelling of SAMPLE tickets."""
    questions = [(ticket.text, 0) for ticket in tickets.generate(SAMPLE, seed=1)]
    with TemporaryDirectory() as folder, AnswerStore(Path(folder) / "answers.sqlite") as store:
        account = DryRunAccount(StoredAccount(store))
        teacher = teachers.create({**config, "terms": _TERMS}, tickets.CATEGORIES, account)
        if not priced(teacher):
            raise TypeError(f"{teacher.name} makes no paid calls")
        try:
            return await dry_run(teacher, questions, store, account)
        finally:
            await teacher.aclose()


if __name__ == "__main__":
    main()
