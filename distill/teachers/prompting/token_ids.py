"""The token ids of codes, from a server that has its model's tokenizer beside its API, as vLLM does (`/tokenize`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from distill.teachers.api.client import Api
from distill.teachers.api.http import ApiError, persistent, send
from distill.teachers.prompting.label_codes import forms

_ATTEMPTS = 3
_BEFORE = "\n"
"""A tokenizer that puts a space before every text shows how a bare code is written only after something else."""


async def token_ids(api: Api, model: str, names: Sequence[str]) -> dict[str, list[int]]:
    """The ids of each code's forms that are one token, the bare code first. A code of which none is has no entry.

    Gives nothing where the server has no tokenizer. Raises ApiError where the server cannot be reached, or stays busy.
    """
    url = _beside(str(api.client.base_url))

    async def tokens(text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        async for attempt in persistent(_ATTEMPTS, sleep=api.sleep):
            with attempt:
                found = (await send(api.client, url, body, who=f"{api.who} (/tokenize)")).get("tokens")
        return found if isinstance(found, list) and all(isinstance(one, int) for one in found) else []

    async def ids(name: str) -> list[int]:
        after, *alone = await asyncio.gather(tokens(_BEFORE + name), *map(tokens, forms(name)))
        bare = [after[-1:]] if after[:-1] == before else []
        return list(dict.fromkeys(found[0] for found in [*bare, *alone] if len(found) == 1))

    try:
        if not (before := await tokens(_BEFORE)):
            return {}
        found = dict(zip(names, await asyncio.gather(*map(ids, names)), strict=True))
    except ApiError as error:
        if error.status is None or error.retryable:
            raise
        return {}
    return {name: ones for name, ones in found.items() if ones}


def _beside(base_url: str) -> str:
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").removesuffix("/v1") + "/tokenize"))
