"""`reflux gap-report`: the verdict, the windows, the days, and which labels differ; texts are in the JSON alone."""

import asyncio
import json
import stat

import httpx
import pytest
from typer.testing import CliRunner

from reflux.cli import app
from tests.support.gap_bodies import disagreements_body, gap_body, history_body
from tests.support.http_server import serving
from tests.support.sockets import dead_address


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("REFLUX_API_KEY", raising=False)


def service(state, disagreements=None):
    """Return a handler that answers as a service in a state."""
    bodies = {"/gap": gap_body(state), "/gap/history": history_body(state)}
    bodies["/gap/disagreements"] = disagreements or disagreements_body(state)
    return lambda request: httpx.Response(200, json=bodies[request.url.path])


async def report(handler, *arguments):
    async with serving(handler) as server:
        return await asyncio.to_thread(
            CliRunner().invoke, app, ["gap-report", server.url, *map(str, arguments)], env={"COLUMNS": "200"}
        )


@pytest.mark.parametrize(("state", "code"), [("calm", 0), ("watch", 1), ("leave", 2), ("blind", 3)])
async def test_the_exit_code_and_the_heading_say_the_verdict(state, code):
    done = await report(service(state))
    assert done.exit_code == code
    assert done.output.startswith(f"# {gap_body(state)['verdict'].upper()}: ")
    assert gap_body(state)["message"] in done.output


async def test_days_are_summed_up_by_their_comparisons():
    points = [
        {"time": at, "ratio": ratio, "requests": 100, "compared": compared}
        for at, ratio, compared in ((0, 0.1, 30), (3600, 0.3, 10), (90_000, None, 0))
    ]
    bodies = service("calm")

    def answer(request):
        if request.url.path == "/gap/history":
            return httpx.Response(200, json={"points": points})
        return bodies(request)

    done = await report(answer)
    assert "| 1970-01-01 | 200 | 40 | 15.0 % |" in done.output
    assert "| 1970-01-02 | 100 | 0 | – |" in done.output


async def test_what_the_teacher_answered_itself_is_told_beside_the_gap():
    deferred = {"answered": 1234, "share": 0.08, "gap": {"ratio": 0.025, "lower": 0.02, "upper": 0.03}}
    bodies = service("calm")

    def answer(request):
        found = bodies(request)
        return httpx.Response(200, json={**found.json(), "deferred": deferred}) if request.url.path == "/gap" else found

    told = "The teacher answered 1,234 texts itself, 8.0 % of all; the windows are of the others."
    assert f"{told} Since deployment, the gap of all answers is 2.5 % (2.0 to 3.0 %)." in (await report(answer)).output
    deferred |= {"answered": 0, "share": None, "gap": dict.fromkeys(("ratio", "lower", "upper"))}
    assert "The teacher answered 0 texts itself; the windows are of the others.\n" in (await report(answer)).output
    assert "The teacher answered" not in (await report(service("calm"))).output


async def test_texts_are_written_to_the_json_alone_which_its_owner_reads(tmp_path):
    done = await report(service("leave"), "--output", tmp_path)
    (page,) = tmp_path.glob("gap-*.md")
    data = page.with_suffix(".json")
    assert page.read_text() == done.output
    rows = json.loads(data.read_text())["disagreements"]["rows"]
    texts = [row["text"] for row in rows if row["text"]]
    assert texts
    assert not any(text in done.output for text in texts)
    assert stat.S_IMODE(data.stat().st_mode) == 0o600
    assert f"| {rows[0]['student']} | {rows[0]['teacher']} | 3 |" in done.output


async def test_labels_cannot_break_the_table():
    done = await report(service("calm", {"rows": [{"student": "a|b\nc", "teacher": "d"}]}))
    assert "| a\\|b c | d | 1 |" in done.output


async def test_without_disagreements_the_rest_is_reported_and_why_is_said():
    bodies = service("calm")

    def answer(request):
        if request.url.path == "/gap/disagreements":
            return httpx.Response(503, json={"error": {"code": "no", "message": "no texts", "request_id": "1"}})
        return bodies(request)

    done = await report(answer)
    assert done.exit_code == 0
    assert "could not be read" in done.output
    assert "no texts" in done.output


def test_no_answer_is_said_with_the_exit_code_4():
    done = CliRunner().invoke(app, ["gap-report", dead_address()])
    assert done.exit_code == 4
    assert "does not answer" in done.output


async def test_a_folder_that_cannot_be_written_is_no_verdict(tmp_path):
    (tmp_path / "file").touch()
    done = await report(service("calm"), "--output", tmp_path / "file")
    assert done.exit_code == 4
    assert "error: " in done.output
