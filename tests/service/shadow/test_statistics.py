"""Traffic with a known gap through the whole pipeline: the interval must cover the gap."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from distill.teachers import Answer
from service.shadow.sampler import Sampler

from .conftest import REFERENCE, PlayedTeacher, answer

REQUESTS = 4000
RUNS = 6


def traffic(seed: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Return top probabilities, and where the teacher disagrees: `bias` times as often as the reference expects."""
    generator = np.random.default_rng(seed)
    top = np.clip(generator.beta(6, 1, REQUESTS), 0.4, 0.9999)
    expected = np.array([REFERENCE.expected_disagreement(value) for value in top])
    return top, generator.random(REQUESTS) < np.minimum(bias * expected, 0.95)


async def measured(make_shadow, path, seed: int, bias: float) -> tuple[dict, float]:
    top, wrong = traffic(seed, bias)
    moods = np.random.default_rng(100 + seed).random(REQUESTS)

    async def reply(texts):
        number = int(texts[0].split()[1])
        # It refuses most where it is asked least, so that a plain average over answers would mislead.
        band = REFERENCE.band(REFERENCE.expected_disagreement(float(top[number])))
        if moods[number] < 0.1 * (4 - band):
            return [Answer(None, "logprobs", outcome="refused")]
        return [answer("shipping" if wrong[number] else "billing")]

    shadow = await make_shadow(PlayedTeacher(reply), path=path, rate=0.08, random=Random(seed), concurrency=8).start()
    for number in range(REQUESTS):
        shadow.observe(text=f"text {number}", top=float(top[number]))
    await shadow.settled()
    found = shadow.pipeline.gap()
    await shadow.pipeline.stop()
    assert found["counts"]["requests"] == REQUESTS
    return found, float(wrong.mean())


@pytest.mark.parametrize("bias", [1.0, 2.0], ids=["calibrated", "overconfident"])
async def test_the_interval_holds_the_true_gap(make_shadow, directory, bias):
    errors, plain, held = [], [], 0
    for seed in range(RUNS):
        found, truth = await measured(make_shadow, directory / f"{seed}.sqlite", seed, bias)
        gap = found["gap"]
        held += gap["lower"] <= truth <= gap["upper"]
        errors.append((gap["ratio"] - truth) / gap["stderr"])
        assert gap["always_valid"]["lower"] <= truth <= gap["always_valid"]["upper"]
        assert gap["worst_case"]["lower"] < gap["ratio"] < gap["worst_case"]["upper"]
        plain.append((found["counts"]["disagreements"] / found["counts"]["compared"] - truth) / gap["stderr"])
    assert held >= RUNS - 1
    assert abs(np.mean(errors)) < 1.0  # two to three standard errors of such a mean
    assert abs(np.mean(plain)) > 2.0  # what the plain share of disagreements would be off by


async def test_the_evidence_grows_only_when_the_student_got_worse(make_shadow, directory):
    calm, _ = await measured(make_shadow, directory / "calm.sqlite", 1, bias=0.9)
    worse, _ = await measured(make_shadow, directory / "worse.sqlite", 1, bias=4.0)
    assert calm["evidence"]["log_evalue"] < 3.0
    assert worse["evidence"]["log_evalue"] > worse["evidence"]["ticket_at"]
    assert worse["rectifier"] > calm["rectifier"]


def test_traffic_is_sampled_at_about_the_rate():
    top, _ = traffic(3, 1.0)
    sampler = Sampler(REFERENCE, 0.08, Random(1))
    share = np.mean([sampler.propensity[sampler.place(float(value))[0]] for value in top])
    assert 0.04 < share < 0.16
