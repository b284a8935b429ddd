"""What a task allows is allowed to all workers together."""

from __future__ import annotations

from typing import Any

import pytest

from distill.errors import DistillError
from distill.labelling.ray.quota import quota, runs_torch
from distill.teachers import create, parse

API = {"kind": "openai", "base_url": "http://localhost/v1", "model": "m", "usd_per_million": {"input": 1, "output": 4}}
LIMITS = {"concurrency": 9, "requests_per_minute": 500, "tokens_per_minute": 90_000}


def ensemble(*members: dict[str, Any]) -> Any:
    return parse({"kind": "ensemble", "members": [{"teacher": member} for member in members]})


def test_calls_at_once_and_limits_per_minute_are_divided() -> None:
    shared: Any = quota(parse({**API, **LIMITS}), 2)
    assert (shared.concurrency, shared.requests_per_minute, shared.tokens_per_minute) == (4, 250, 45_000)


def test_so_are_those_of_members_and_it_is_the_same_teacher() -> None:
    whole = ensemble({**API, **LIMITS}, {**API, "model": "n"})
    shared = quota(whole, 3)
    assert [one.teacher.concurrency for one in shared.members] == [3, 2]  # type: ignore[attr-defined]
    assert shared.members[1].teacher.requests_per_minute is None  # type: ignore[attr-defined]
    first, second = create(whole, ("a", "b")), create(shared, ("a", "b"))
    assert (first.name, first.version) == (second.name, second.version)


def test_more_workers_than_calls_at_once_are_refused() -> None:
    with pytest.raises(DistillError, match="--workers 9: the teacher's `concurrency` allows 8 calls at once in all"):
        quota(parse(API), 9)


def test_a_model_on_the_workers_machine_is_told_also_within_an_ensemble() -> None:
    local = {"kind": "local", "model": "somewhere"}
    assert runs_torch(parse(local))
    assert runs_torch(ensemble(API, local))
    assert not runs_torch(ensemble(API, API))
