"""`reflux anchors`: a teacher is asked once about the anchors of a bundle."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from distill.teachers import Answer, TeacherError
from export.bundle.anchors import ANCHORS, Anchor, anchors_jsonl
from reflux.cli import app
from tests.support.stub_teacher import StubTeacher
from tests.support.tiny_bundle import WORDS, build_bundle, rewritten

GIVEN = [Anchor(f"my {word} please", label) for label, words in WORDS.items() for word in words]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_bundle):
    """A bundle whose anchors are the words, labelled as they are meant."""
    folder = tmp_path_factory.mktemp("bundles") / "anchored"
    return rewritten(tiny_bundle, folder, {ANCHORS: anchors_jsonl(GIVEN)})


@pytest.fixture
def ask(monkeypatch, bundle):
    """`ask(teacher, *arguments)`: run the command with this teacher, a bundle's folder or a stub."""

    def run(teacher, *arguments):
        if isinstance(teacher, StubTeacher):
            monkeypatch.setenv("REFLUX_SHADOW__TEACHER", '{"kind": "bundle", "path": "any"}')
            monkeypatch.setattr("reflux.anchors.make_teacher", lambda settings, labels: teacher)
        else:
            monkeypatch.setenv("REFLUX_SHADOW__TEACHER", json.dumps({"kind": "bundle", "path": str(teacher.path)}))
        return CliRunner().invoke(app, ["anchors", *(arguments or [str(bundle.path)])])

    return run


class NoisyTeacher(StubTeacher):
    """Answers as the anchors say, but for `noise` of the answers and every anchor of the labels in `changed`."""

    labels = tuple(WORDS)
    concurrency = 8

    def __init__(self, noise=0.0, changed=(), fails=()):
        self._noise, self._changed, self._fails = noise, changed, fails
        self._random = np.random.default_rng(0)
        self._means = {anchor.text: anchor.label for anchor in GIVEN}
        self.asked = 0

    async def ask(self, texts, repeat=0):
        self.asked += 1
        label = self._means[texts[0]]
        if label in self._fails:
            raise TeacherError("no answer", retryable=False)
        at = self.labels.index(label)
        if label in self._changed or self._random.random() < self._noise:
            at = (at + 1) % len(self.labels)
        return [Answer(np.eye(len(self.labels), dtype=np.float32)[at], "votes", cost_usd=0.01)]


def test_a_teacher_that_answers_as_it_did_is_the_same(ask, tmp_path):
    done = ask(build_bundle(tmp_path / "teacher", role="teacher"))
    assert done.exit_code == 0, done.output
    state, shares, cost = done.stdout.splitlines()
    assert state == "SAME: nothing shows that the teacher changed"
    assert shares.startswith("0 of 40 anchors are not answered as recorded, a share of [0.0 %, 8.8 %]; 0 of 40 could")
    assert cost.endswith("40 calls, 0.0000 USD")  # a constant teacher is asked once


def test_a_teacher_that_takes_a_label_for_another_has_changed(ask, tmp_path):
    flip = dict.fromkeys(WORDS["account"], "billing")
    done = ask(build_bundle(tmp_path / "teacher", role="teacher", flip=flip))
    assert done.exit_code == 2, done.output
    assert "10 of 40 anchors are not answered as recorded, a share of [12.7 %, 41.2 %]" in done.stdout


def test_the_noise_of_a_teacher_is_no_change(ask):
    teacher = NoisyTeacher(noise=0.1)
    done = ask(teacher)
    assert done.exit_code == 0, done.output
    assert teacher.asked == 4 * 40
    assert f"160 calls, {1.6:.4f} USD" in done.stdout
    assert teacher.closed


def test_a_change_is_seen_through_noise(ask):
    done = ask(NoisyTeacher(noise=0.01, changed={"account"}))
    assert done.exit_code == 2, done.output


def test_a_teacher_that_does_not_answer_is_unknown(ask):
    done = ask(NoisyTeacher(fails={"billing", "account", "technical"}))
    assert done.exit_code == 3, done.output
    assert "30 of 40 could not be asked about" in done.stdout
    assert ask(NoisyTeacher(fails={"billing"})).exit_code == 0


def test_no_more_is_spent_than_the_settings_allow(ask, monkeypatch):
    monkeypatch.setenv("REFLUX_SHADOW__USD_PER_HOUR", "1.0")  # a tenth of it at once
    teacher = NoisyTeacher()
    done = ask(teacher)
    assert done.exit_code == 3, done.output
    assert teacher.asked <= 12


def test_a_bundle_without_anchors_is_refused(ask, tiny_bundle):
    done = ask(NoisyTeacher(), str(tiny_bundle.path))
    assert done.exit_code == 4
    assert "has no anchors to ask about; export it again" in done.stderr


def test_without_a_teacher_or_a_bundle_the_message_says_what_to_give(ask, bundle, monkeypatch, tmp_path):
    monkeypatch.delenv("REFLUX_SHADOW__TEACHER", raising=False)
    done = CliRunner().invoke(app, ["anchors", str(bundle.path)])
    assert done.exit_code == 4
    assert "set REFLUX_SHADOW__TEACHER" in done.stderr
    assert "enabled" not in done.stderr
    done = CliRunner().invoke(app, ["anchors", str(tmp_path / "none")])
    assert done.exit_code == 4
    assert CliRunner().invoke(app, ["anchors"], env={"REFLUX_BUNDLE": ""}).exit_code == 4
