"""Services that misbehave, each in its way, with the alerts that should tell of it, and of nothing else.

They are real processes with real traffic. What is unusual of each is a setting, a bundle, or the texts that it gets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

import httpx

from export.bundle.anchors import ANCHORS, Anchor, anchors_jsonl
from export.bundle.format import Bundle
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from tests.support.prometheus import Prometheus
from tests.support.service_process import ServiceProcess, service_process
from tests.support.tiny_bundle import MAX_TOKENS, POISON, WORDS, build_bundle, build_cascade, mixed_texts, rewritten
from tests.support.waiting import PATIENCE

Trouble = Callable[[httpx.AsyncClient], Awaitable[None]]
"""One round of traffic; it is repeated."""

ORDINARY = tuple(mixed_texts(tuple(WORDS), 400))
"""The texts on which the bands of a tiny bundle rest, so that they are no input drift."""

WRONG = dict.fromkeys(WORDS["billing"], "shipping") | dict.fromkeys(WORDS["account"], "technical")
"""What a student that is often wrong takes words for."""

NOWHERE = {
    "kind": "openai",
    "model": "m",
    "base_url": "http://127.0.0.1:9/v1",
    "usd_per_million": {"input": 1, "output": 1},
}
"""A teacher whose server is down: nothing listens on port 9."""

SLO = 0.1
PLAN = {
    "REFLUX_WORKERS": "1",  # without it, each process measures what suits the machine
    "REFLUX_BATCH_TOKENS": "512",
    "REFLUX_LATENCY_SECONDS": "2.5",  # a busy machine is not the trouble
    "REFLUX_DRAIN_SECONDS": "0",
    "REFLUX_IDLE_GRACE_SECONDS": "0",
}


@dataclass(frozen=True)
class Case:
    """A service named `name`, of a bundle `version`, and how it is made to misbehave: `how`, in words for a reader.

    `settings` are environment variables, `trouble` is its traffic, and `module` the program that serves.
    """

    name: str
    how: str
    alerts: frozenset[str]
    version: str
    settings: Mapping[str, str]
    trouble: Trouble
    module: str = "service"

    @property
    def expected(self) -> set[tuple[str, str]]:
        """The alerts with their model version."""
        return {(alert, self.version) for alert in self.alerts}


@dataclass
class Fleet:
    """The running `cases`, one process each. `ports` are in the order of the cases."""

    cases: Sequence[Case]
    processes: Sequence[ServiceProcess]
    _traffic: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        """Where the processes listen."""
        return [process.port for process in self.processes]

    def port(self, name: str) -> int:
        """Return where a case listens."""
        return next(process.port for case, process in zip(self.cases, self.processes, strict=True) if case.name == name)

    def misbehave(self) -> None:
        """Let the traffic of all begin."""
        self._traffic += [
            asyncio.create_task(_repeated(case.trouble, port))
            for case, port in zip(self.cases, self.ports, strict=True)
        ]

    async def calm_down(self) -> None:
        """End the traffic. Raises what a round of it raised."""
        for task in self._traffic:
            task.cancel()
        ended = await asyncio.gather(*self._traffic, return_exceptions=True)
        self._traffic.clear()
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    def end(self) -> None:
        """Send SIGTERM to all."""
        for process in self.processes:
            process.terminate()


@asynccontextmanager
async def fleet(cases: Sequence[Case]) -> AsyncIterator[Fleet]:
    """Start the services of all cases."""
    async with AsyncExitStack() as stack:
        starting = (service_process("-m", case.module, **PLAN | dict(case.settings)) for case in cases)
        # One after another: on a busy machine, a dozen that start at once take too long each.
        running = Fleet(cases, [await stack.enter_async_context(process) for process in starting])
        stack.push_async_callback(running.calm_down)
        yield running


async def firing(server: Prometheus) -> set[tuple[str, str]]:
    """Return the alerts that fire now, with their model version."""
    rows = await server.query('ALERTS{alertstate="firing"}')
    return {(row["metric"]["alertname"], row["metric"].get("model_version", "")) for row in rows}


def build_cases(folder: Path) -> list[Case]:
    """Build the bundles in `folder`, and return all cases but one: that no service is there at all."""
    teacher = build_bundle(folder / "teacher", name="teacher")
    moved = build_bundle(folder / "moved", name="teacher", flip=WRONG)

    lengths = count(MAX_TOKENS)

    def student(name: str, flip: Mapping[str, str] | None = None, files: Mapping[str, bytes] | None = None) -> Bundle:
        """Make a bundle, which reads one token more than the last, so that its version is its own."""
        made = build_bundle(folder / f"{name} before", name=name, flip=flip)
        return rewritten(made, folder / name, files, max_tokens=next(lengths))

    def case(
        how: str,
        alerts: str,
        bundle: Bundle,
        trouble: Trouble,
        *,
        shadow: Mapping[str, str] | None = None,
        taught_by: Bundle = teacher,
        module: str = "service",
        **settings: str,
    ) -> Case:
        teaching = json.dumps({"kind": "bundle", "path": str(taught_by.path), "usd_per_hour": 1e6})
        path = str(folder / f"{bundle.manifest.name}.sqlite")
        shadowed = {"ENABLED": "true", "RATE": "1", "PATH": path, "TEACHER": teaching, "GAP_SLO": str(SLO)}
        variables = {f"REFLUX_SHADOW__{key}": value for key, value in (shadowed | dict(shadow or {})).items()}
        variables |= {"REFLUX_BUNDLE": str(bundle.path), **settings}
        return Case(
            bundle.manifest.name, how, frozenset(alerts.split()), bundle.manifest.version, variables, trouble, module
        )

    unseen = {"RATE": "0.000001"}
    remembered = {ANCHORS: anchors_jsonl(Anchor(word, label) for label, words in WORDS.items() for word in words)}
    return [
        case("nothing is wrong: a gap of 2 %", "", student("calm", {"fee": "shipping"}), ordinary()),
        case(
            "the student takes all words of two labels for others",
            "RefluxGapExceeded RefluxGapRose",
            student("wrong", WRONG),
            ordinary(),
        ),
        case(
            "the same student has got a few such texts",
            "RefluxGapSuspected",
            student("suspect", WRONG),
            Balance().round,
        ),
        case(
            "no teacher is set",
            "RefluxGapUnmeasured",
            student("alone"),
            ordinary(),
            shadow={"ENABLED": "false"},
        ),
        case(
            "the teacher costs more than its budget",
            "RefluxBudgetSpent RefluxGapBlind",
            student("poor"),
            ordinary(),
            shadow={"USD_PER_HOUR": "0.01"},
        ),
        case("texts of words that it does not know", "RefluxInputDrift", student("foreign"), undecided),
        case(
            "the teacher now gives other answers than those recorded",
            "RefluxTeacherDrift",
            student("taught", files=remembered),
            silence,
            taught_by=moved,
            shadow={"ANCHORS_PER_DAY": str(86400 * 20)},
        ),
        case(
            "a planted defect: one text in four cannot be counted",
            "RefluxShadowMiscounts",
            student("defective"),
            ordinary(),
            module="tests.support.defective_service",
        ),
        case(
            "its students leave most texts to a teacher whose server is down",
            "RefluxDeferralsFail",
            build_cascade(folder / "deferring", [student("undecided")], [], name="deferring", defer=0.99),
            ordinary(),
            shadow=unseen,
            REFLUX_DEFER__TEACHER=json.dumps(NOWHERE),
        ),
        case(
            "half of the requests break the graph",
            "RefluxAvailability RefluxAvailabilitySlow",
            student("failing"),
            breaking(6, of=12),
            shadow=unseen,
        ),
        case(
            "a quarter breaks it, where a tenth is allowed",
            "RefluxAvailabilitySlow",
            student("crumbling"),
            breaking(3, of=12),
            shadow=unseen,
            REFLUX_AVAILABILITY_OBJECTIVE="0.9",
        ),
        case(
            "512 texts at once, and half a millisecond promised",
            "RefluxLatency",
            student("slow"),
            crowd,
            shadow=unseen,
            REFLUX_LATENCY_SECONDS="0.0005",
            REFLUX_QUEUE_LIMIT="1000",
        ),
    ]


def ordinary(most: int = 20) -> Trouble:
    """Send the ordinary texts, `most` a round."""
    texts = cycle(ORDINARY)
    return lambda client: _classify(client, list(islice(texts, most)))


def breaking(bad: int, of: int) -> Trouble:
    """Send `of` requests of one text, of which `bad` break the graph, and so get an error."""
    texts = cycle(ORDINARY)

    async def round_of_both(client: httpx.AsyncClient) -> None:
        for number in range(of):
            text = POISON if number < bad else next(texts)
            response = await client.post("/classify", json={"text": text})
            assert (response.status_code == 200) == (text != POISON)

    return round_of_both


async def undecided(client: httpx.AsyncClient) -> None:
    """Send texts without a known word."""
    await _classify(client, ["qwerty uiop"] * 60)


async def silence(client: httpx.AsyncClient) -> None:
    """Send nothing."""


async def crowd(client: httpx.AsyncClient) -> None:
    """Send eight large requests at once, so that all but the first wait for others."""
    await asyncio.gather(*(_classify(client, list(ORDINARY[start : start + 50])) for start in range(0, 400, 50)))


class Balance:
    """Keeps the evidence of a service that is wrong about billing between what opens a ticket and what pages."""

    def __init__(self) -> None:
        self._low, self._high = LOG_TICKET + 0.2, LOG_PAGE - 1.2
        self._bad, self._good = cycle(WORDS["billing"]), cycle(WORDS["technical"])
        self._sent = 0

    async def round(self, client: httpx.AsyncClient) -> None:
        """Send one text at a time until the evidence is where it should be.

        Not at once: Prometheus takes counts of the first scrapes for more than they are.
        """
        if not self._sent:
            await asyncio.sleep(20.0)
        while not self._low <= (evidence := await self._evidence(client)) <= self._high:
            await _classify(client, [next(self._bad if evidence < self._low else self._good)])
            self._sent += 1

    async def _evidence(self, client: httpx.AsyncClient) -> float:
        """Return the log e-value, once all texts are compared."""
        while (gap := (await client.get("/gap")).json())["counts"]["compared"] < self._sent:
            await asyncio.sleep(0.02)
        return float(gap["evidence"]["log_evalue"])


async def _classify(client: httpx.AsyncClient, texts: list[str]) -> None:
    response = await client.post("/classify", json={"texts": texts})
    assert response.status_code == 200, response.text


async def _repeated(trouble: Trouble, port: int, pause: float = 0.5) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
        while True:
            await trouble(client)
            await asyncio.sleep(pause)
