"""What the programs of a rehearsal are given, and what its own programs answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import httpx
import pytest
import yaml

from distill.data.support_desk import tickets
from tests.rehearsals.hosts import load, needs, table
from tests.rehearsals.hosts.balancer import CHECK_SECONDS, CHECKS, configuration
from tests.rehearsals.hosts.cases import CASES, CUT_SECONDS
from tests.rehearsals.hosts.cluster import DRAIN_SECONDS, HOSTS, SETTINGS, Bundles
from tests.rehearsals.hosts.errors import RehearsalError
from tests.rehearsals.hosts.examine import Findings
from tests.rehearsals.hosts.network import Network
from tests.rehearsals.hosts.prometheus import RULES, SCRAPE_SECONDS, impatient
from tests.rehearsals.hosts.teacher import completion, text_of
from tests.support.http_server import serving


def test_the_balancer_is_told_of_every_server(tmp_path):
    text = configuration("198.18.0.9", {"serving-1": "198.18.0.1", "serving-2": "198.18.0.2"})
    assert "bind 198.18.0.9:8080\n" in text
    assert "  server serving-1 198.18.0.1:8080\n  server serving-2 198.18.0.2:8080\n" in text
    if shutil.which("haproxy") is None:
        pytest.skip("there is no HAProxy (Debian: haproxy)")
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    assert subprocess.run(["haproxy", "-c", "-f", file]).returncode == 0


def test_the_balancer_notices_a_drain_before_it_ends():
    assert DRAIN_SECONDS > (CHECKS + 1) * CHECK_SECONDS


def test_a_link_is_cut_for_longer_than_a_question_may_take():
    assert float(SETTINGS["REFLUX_SHADOW__DEADLINE_SECONDS"]) < CUT_SECONDS


def test_prometheus_gets_every_rule_and_evaluates_it_at_each_scrape():
    rules = yaml.safe_load(RULES.read_text())
    changed = impatient(rules)
    assert [group["rules"] for group in changed["groups"]] == [group["rules"] for group in rules["groups"]]
    assert {group["interval"] for group in changed["groups"]} == {f"{SCRAPE_SECONDS}s"}


def test_hosts_have_addresses_of_their_own_and_names_that_fit():
    addresses = Network(HOSTS).addresses
    assert len(set(addresses.values())) == len(HOSTS)
    with pytest.raises(RehearsalError, match="12 characters"):
        Network(("a-name-that-is-too-long",))


def test_the_teacher_reads_the_text_between_the_last_tags():
    messages = [{"content": "Classify <text>\nno\n</text>"}, {"content": "<text>\na &lt;b\n</text>"}]
    assert text_of(json.dumps({"messages": messages}).encode()) == "a <b"
    content = json.loads(completion("refund"))["choices"][0]["message"]["content"]
    assert json.loads(content) == {"label": "refund"}


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    nowhere = tmp_path / "no bundle"
    said = "\n".join(needs.missing(Bundles(nowhere, nowhere, nowhere)))
    assert "apt-get install iproute2 util-linux haproxy prometheus postgresql-client" in said
    assert f"{nowhere} has no bundle: run `make demo`" in said


async def test_every_request_is_written_down_with_its_answer(tmp_path):
    refused = tickets.generate(3, 1)[1].text

    def answer(request: httpx.Request) -> httpx.Response:
        status = 502 if json.loads(request.content) == {"text": refused} else 200
        return httpx.Response(status, json={"version": "v1"}, headers={"x-served-by": "serving-1"})

    async with serving(answer) as server:
        await load.send(server.url, 100.0, 0.03, tmp_path / "requests", 1)
    requests = load.read(tmp_path / "requests")
    assert [(request.status, request.server, request.version) for request in requests] == [
        (200, "serving-1", "v1"),
        (502, "serving-1", ""),
        (200, "serving-1", "v1"),
    ]
    assert all(request.start <= request.end for request in requests)


async def test_a_request_without_an_answer_is_written_down_too(tmp_path):
    await asyncio.wait_for(load.send("http://127.0.0.1:9", 100.0, 0.02, tmp_path / "requests", 1), 10)
    assert [(request.status, bool(request.error)) for request in load.read(tmp_path / "requests")] == [(0, True)] * 2


def test_the_table_has_a_line_for_each_case():
    lines = [table.heading(), *(table.row(case.name, Findings(requests=4, answered=3, excused=1)) for case in CASES)]
    assert len({line.count("|") for text in lines for line in text.splitlines()}) == 1
    assert "| 4 | 3 | 1 |" in lines[1]
    assert lines[1].endswith("| yes |")
    assert table.row("a case", Findings(wrong=["something"])).endswith("| no |")
