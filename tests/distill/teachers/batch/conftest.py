"""Vendors of batches on real sockets, and the file of an account."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.batch_vendors import Anthropic, OpenAI, Vendor


@pytest.fixture(params=["openai", "anthropic"])
def vendor(request) -> Vendor:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def openai(serve) -> OpenAI:
    vendor = OpenAI()
    vendor.base_url = f"{await serve(vendor)}/v1"
    return vendor


@pytest.fixture
async def anthropic(serve) -> Anthropic:
    vendor = Anthropic()
    vendor.base_url = await serve(vendor)
    return vendor


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "answers.sqlite"
