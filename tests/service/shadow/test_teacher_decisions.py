"""A decision model as the shadow's teacher."""

from __future__ import annotations

from typing import Any

import pytest

from service.shadow.budget import Budget
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller, make_teacher
from tests.support.decision_server import DecisionServer, distribution
from tests.support.http_server import serving

LABELS = ("billing", "refund", "shipping")


def spoil(response: dict[str, Any]) -> dict[str, Any]:
    """Refuse the text of 7 characters, and take a fifth of the mass from the answer to that of 9."""
    answer = response["answers"][0]
    if response["usage"]["input_tokens"] == len("refused"):
        response["answers"] = [{"type": "refusal", "name": answer["name"]}]
    if response["usage"]["input_tokens"] == len("defective"):
        answer["probabilities"] = [{**one, "probability": 0.8 * one["probability"]} for one in answer["probabilities"]]
    return response


async def test_answers_refusals_and_defects_are_told_apart() -> None:
    async with serving(DecisionServer(spoil)) as place:
        config = {"kind": "decisions", "model": "m", "base_url": f"{place.url}/v1", "prompt": {"instructions": "?"}}
        teacher = {**config, "usd_per_million": {"input": 0.1, "output": 0}}
        settings = ShadowSettings(enabled=True, teacher=teacher, deadline_seconds=30)
        made = make_teacher(settings, LABELS)
        caller = TeacherCaller(settings, Budget(None), made, tuple(reversed(LABELS)))
        results = {text: await caller.ask(text) for text in ("a good text", "refused", "defective")}
        await made.aclose()
    assert {text: result.outcome.value for text, result in results.items()} == {
        "a good text": "completed",
        "refused": "refused",
        "defective": "invalid_answer",
    }
    good = results["a good text"]
    p = distribution("a good text", "?", LABELS)
    assert good.probabilities == pytest.approx([p[label] for label in reversed(LABELS)])
    assert (good.method, good.model, good.tokens) == ("decisions", "tiny-1", len("a good text") + 1)
    assert good.cost_usd == pytest.approx(len("a good text") * 0.1 / 1e6)
