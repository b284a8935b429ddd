"""The token ids of codes, from a server that offers its model's tokenizer, as vLLM does (`/tokenize`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from distill.teachers.api.client import Api
from distill.teachers.api.errors import ApiError
from distill.teachers.api.http import post_json, retrying
from distill.teachers.prompting.label_codes import forms

_ATTEMPTS = 3
_BEFORE = "\n"
"""Some tokenizers put a space before every text, so a code without one is only seen after other text."""


async def token_ids(api: Api, model: str, names: Sequence[str]) -> dict[str, list[int]]:
    """Map codes to the ids of their forms that are single tokens, the bare code first. Codes without any are left out.

    Empty if the server has no tokenizer. Raises ApiError if the server cannot be reached or stays busy.
    """
    url = _tokenize_url(str(api.client.base_url))

    async def tokens(text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        async for attempt in retrying(_ATTEMPTS, sleep=api.sleep):
            with attempt:
                found = (await post_json(api.client, url, body, server=f"{api.name} (/tokenize)")).get("tokens")
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


def _tokenize_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").removesuffix("/v1") + "/tokenize"))
