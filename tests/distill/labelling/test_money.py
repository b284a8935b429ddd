"""Nothing is paid for twice and the budget holds, whatever kills the process: a server that charges for what it begins.

The server is in this process, the run in another one, with sockets and signals between them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from distill.labelling.answer_store import text_key
from distill.task import load_task
from distill.teachers import create
from tests.support.http_server import serving
from tests.support.labelling_job import NAMES, PROBES, ChargingApi, Hold, LabellingJob, right
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
POOL, TEST = 1800, 200
KILLS = 20
AT_ONCE = 32  # calls at the server; a quarter more, and one, are being written down
UNDER_WAY = AT_ONCE + AT_ONCE // 4 + 1
CALLS = "calls WHERE cost_usd > 0"  # what a teacher agreed with the server on is kept too, and costs nothing
TIGHT = 1800  # calls, at their worst: too few for all the texts, and enough for what the killed runs ask

PROCESS = """
import json, os, signal, sys
from pathlib import Path

from reflux import cli as command
import distill.training.requirements  # once, and not in each child
from distill.run import Run
from distill.task import load_task
from distill.teachers import create

Run(load_task(sys.argv[1]), Path(sys.argv[2])).make_data()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv[1:] = ["label", sys.argv[1], "--output", sys.argv[2], *json.loads(line)]
        try:
            command.main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Process:
    """The command in processes of its own, one after the other, forked from one that has everything loaded."""

    def __init__(self, inner: asyncio.subprocess.Process) -> None:
        self.inner = inner
        assert inner.stdin
        assert inner.stdout
        assert inner.stderr
        self.stdin, self.stdout, self.stderr = inner.stdin, inner.stdout, inner.stderr

    async def start(self, *options: str) -> int:
        """Run `reflux label` with options. Gives its process id."""
        self.stdin.write((json.dumps(options) + "\n").encode())
        return int(await self.number())

    async def number(self) -> int:
        """The next number that it says, past what the command printed."""
        while line := await self.stdout.readline():
            if line.strip().lstrip(b"-").isdigit():
                return int(line)
        raise AssertionError((await self.stderr.read()).decode())

    async def said(self, part: str) -> str:
        """What it says on standard error, up to the line with this part."""
        return await _until(self.stderr, part)

    async def printed(self, part: str) -> str:
        """What it says on standard output, up to the line with this part."""
        return await _until(self.stdout, part)


async def _until(stream: asyncio.StreamReader, part: str) -> str:
    lines = ""
    while part not in lines:
        line = await stream.readline()
        assert line, lines
        lines += line.decode()
    return lines


@asynccontextmanager
async def process(made: LabellingJob) -> AsyncIterator[Process]:
    pipe = asyncio.subprocess.PIPE
    inner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROCESS, str(made.file), str(made.root)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    try:
        yield Process(inner)
    finally:
        if inner.returncode is None:
            inner.kill()
        await inner.communicate()


async def worst(made: LabellingJob) -> float:
    """The most that a call can cost, in dollars."""
    teacher = create(load_task(made.file).teacher, NAMES)
    calls = [call for text in made.texts for call in await teacher.plan(text)]  # type: ignore[attr-defined]
    await teacher.aclose()
    return max(api.max_cost(request) for api, request in calls)


async def test_a_run_killed_at_any_moment_pays_for_nothing_twice_and_keeps_to_its_budget(tmp_path) -> None:
    generator = random.Random(20)

    async def wait(text: str) -> None:
        await asyncio.sleep(generator.uniform(0.001, 0.008))

    async def calls(count: int) -> None:
        await until(lambda: len(teacher.asked) >= count)

    teacher = ChargingApi(wait)
    async with serving(teacher) as server:
        made = LabellingJob.write(tmp_path, server.url, pool=POOL, test=TEST, concurrency=AT_ONCE)
        dearest = await worst(made)
        tight = TIGHT * dearest
        async with process(made) as command:
            for _ in range(KILLS):
                before, kept = made.answered, len(made.rows(CALLS, "key"))
                begun = len(teacher.asked)
                child = await command.start("--max-usd", str(tight))
                await calls(begun + generator.randrange(1, 80))
                await asyncio.sleep(generator.uniform(0, 0.01))
                os.kill(child, signal.SIGKILL)
                assert await command.number() == -signal.SIGKILL
                await server.idle()
                asked = [text_key(text) for text in teacher.asked[begun:]]
                after = made.answered
                assert before <= after <= {text_key(text) for text in teacher.asked}
                assert not before & set(asked)
                assert len(asked) == len(set(asked))
                lost = len(asked) - (len(made.rows(CALLS, "key")) - kept)
                assert 0 <= lost <= UNDER_WAY
            paid = len(made.rows(CALLS, "key"))
            lost = len(teacher.asked) - paid

            await command.start("--max-usd", str(tight))
            assert await command.number() == 1
            assert 0.9 * (tight - lost * dearest) < teacher.usd <= tight
            assert len(made.rows("answers", "text")) < len(made.texts)

            await command.start("--max-usd", "10")
            assert await command.number() == 0
    assert len(teacher.asked) == len(made.texts) + PROBES + lost
    assert lost <= KILLS * UNDER_WAY
    assert sorted(made.rows("answers", "text")) == sorted(map(text_key, made.texts))
    soft = made.labels()
    assert sorted(soft.texts) == sorted(made.texts)
    assert [soft.labels[row] for row in soft.probabilities.argmax(1)] == [right(text) for text in soft.texts]
    assert [text for text, times in Counter(teacher.asked).items() if times > 1 + KILLS] == []


async def test_a_budget_that_is_too_small_ends_the_run_below_it_and_more_money_goes_on(tmp_path) -> None:
    teacher = ChargingApi(spread=128)
    async with serving(teacher) as server:
        made = LabellingJob.write(tmp_path, server.url, pool=90, test=30, concurrency=AT_ONCE)
        async with process(made) as command:
            await command.start("--dry-run")
            told = await command.printed("there are too few answers to learn from")
            assert await command.number() == 0
            assert "120 of 120 texts to ask; no call was made" in told
            assert "unknown" in told
            assert teacher.asked == []

            await command.start("--max-usd", "0.03")
            assert await command.number() == 1
            said = await command.said("--max-usd")
            assert "Traceback" not in said
            assert "of $0.030 are spent, and the next call may cost $0.000" in said.splitlines()[-1]
            assert 0.027 < teacher.usd <= 0.03
            answered = len(made.rows("answers", "text"))
            assert answered == len(teacher.asked) - PROBES

            paid = teacher.usd
            await command.start("--dry-run")
            told = await command.printed(f"learnt from {answered} texts")
            assert await command.number() == 0
            assert f"{120 - answered} of 120 texts to ask" in told
            cost = re.search(r"cost +\$([0-9.]+) \(\$([0-9.]+) to \$([0-9.]+)\)", told)
            assert cost is not None, told
            assert teacher.usd == paid

            await command.start()
            told = await command.printed("spent on calls in all")
            assert await command.number() == 0
            assert f"0 refused, 0 invalid; {120 - answered} asked now; $0.0" in told
            assert float(cost[2]) * 0.99 <= teacher.usd - paid <= float(cost[3]) * 1.01  # as printed
    assert sorted(teacher.asked) == sorted([*made.texts, *NAMES])


async def test_ctrl_c_stores_what_is_in_flight_and_a_second_one_gives_it_up_and_counts_it(tmp_path) -> None:
    hold = Hold()
    teacher = ChargingApi(hold)
    async with serving(teacher) as server:
        made = LabellingJob.write(tmp_path, server.url, pool=90, test=30, concurrency=4)
        async with process(made) as command:
            child = await command.start()
            await until(lambda: len(teacher.asked) == PROBES + 4)
            os.kill(child, signal.SIGINT)
            await command.said("stopping after the calls in flight")
            hold.released.set()
            assert await command.number() == 130
            said = await command.said("nothing is asked or paid for twice")
            assert "Traceback" not in said
            assert said.splitlines()[-1].startswith("stopped: every answer so far is stored, and $0.00")
            assert len(teacher.asked) == PROBES + 6  # those at the server, and two that were waiting to get there
            kept = made.answered
            assert kept == {text_key(text) for text in teacher.asked[PROBES:]}

            hold.released.clear()
            child = await command.start()
            await until(lambda: len(teacher.asked) == PROBES + 10)
            os.kill(child, signal.SIGINT)
            await command.said("stopping after the calls in flight")
            os.kill(child, signal.SIGINT)
            assert await command.number() == 130
            assert "Traceback" not in await command.said("nothing is asked or paid for twice")
            assert made.answered == kept
            assert made.rows("reservations", "usd") == []
            (spent,) = made.rows("money", "spent")
            assert teacher.usd <= spent < teacher.usd * 1.1

            hold.released.set()
            await command.start()
            assert await command.number() == 0
    assert len(teacher.asked) == len(made.texts) + PROBES + 4  # which were asked again
    assert sorted(made.rows("answers", "text")) == sorted(map(text_key, made.texts))
