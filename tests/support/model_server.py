"""A server with a language model whose distribution over the options of a prompt a test says."""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import httpx

_OPTION = re.compile(r"^([A-Z]|\d{3}): (.+?)(?: - .*)?$")
_WORDS = {"The": 0.6, "It": 0.3, "Sure": 0.1}


class ModelServer:
    """A handler that speaks OpenAI's protocol as vLLM does.

    `mass(options, text)` is the probability of each option; the rest goes to words. A label code is said in several
    forms. `ids` is what it does with `logprob_token_ids`: `listed`, `ignored` (as before 2026-05) or `refused`.
    `tokenizer` is whether it has `/tokenize`, `whole_numbers` whether a number is one token, `most` how many tokens it
    lists.
    """

    def __init__(
        self,
        mass: Callable[[list[str], str], Mapping[str, float]],
        *,
        ids: str = "listed",
        tokenizer: bool = True,
        whole_numbers: bool = True,
        most: int = 20,
    ) -> None:
        self.mass, self.ids, self.tokenizer, self.whole_numbers, self.most = mass, ids, tokenizer, whole_numbers, most
        numbers = [str(number) for number in range(100, 1000)] if whole_numbers else []
        names = [*string.ascii_letters, *string.digits, *numbers]
        tokens = ["\n", " ", "<bos>", *_WORDS, *names, *(f" {name}" for name in names)]
        self.id_of = {token: 1000 + index for index, token in enumerate(tokens)}
        self.asked: list[dict[str, Any]] = []
        self._random = random.Random(0)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The chats among what was asked."""
        return [body for body in self.asked if "messages" in body]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        if request.url.path == "/tokenize" and self.tokenizer:
            tokens = self._tokenize(body["prompt"], bos=body.get("add_special_tokens", True))
            return httpx.Response(200, json={"count": len(tokens), "max_model_len": 4096, "tokens": tokens})
        if request.url.path != "/v1/chat/completions":
            return httpx.Response(404, json={"detail": "Not Found"})
        return self._complete(body)

    def tokens(self, body: Mapping[str, Any]) -> dict[str, float]:
        """Return the true distribution of the first token."""
        system, text = body["messages"][0]["content"], body["messages"][-1]["content"].splitlines()[1]
        code_of = {match[2]: match[1] for line in system.splitlines() if (match := _OPTION.match(line))}
        mass = self.mass(list(code_of), text)
        said: dict[str, float] = defaultdict(float)
        for option, code in code_of.items():
            first = code if self.whole_numbers or code.isalpha() else code[0]
            for form, share in ((first, 0.7), (f" {first}", 0.2), (first.lower(), 0.1)):
                said[form] += share * mass.get(option, 0.0)
        rest = 1.0 - sum(said.values())
        return {**said, **{word: share * rest for word, share in _WORDS.items()}}

    def _tokenize(self, text: str, bos: bool) -> list[int]:
        found, at = [self.id_of["<bos>"]] if bos else [], 0
        while at < len(text):
            token = max((one for one in self.id_of if text.startswith(one, at)), key=len)
            found.append(self.id_of[token])
            at += len(token)
        return found

    def _complete(self, body: dict[str, Any]) -> httpx.Response:
        ids = body.get("logprob_token_ids", []) if self.ids != "ignored" else []
        if ids and (self.ids == "refused" or len(ids) > 128 or not body.get("logprobs")):
            return _refusal("logprob_token_ids: at most 128 ids, and logprobs must be true")
        if (asked := body.get("top_logprobs", 0)) > self.most:
            return _refusal(f"Requested sample logprobs of {asked}, which is greater than max allowed: {self.most}")
        mass = self.tokens(body)
        (sampled,) = self._random.choices(list(mass), list(mass.values()))
        token_of = {number: token for token, number in self.id_of.items()}
        likeliest = sorted(mass, key=lambda token: -mass[token])
        wanted = [token_of[one] for one in ids] or likeliest[:asked]
        listed = list(dict.fromkeys([sampled, *wanted]))[
            : None if ids else asked
        ]  # the sampled one may take the place of the last

        def entry(token: str) -> dict[str, Any]:
            shown = f"token_id:{self.id_of[token]}" if body.get("return_tokens_as_token_ids") else token
            return {"token": shown, "logprob": max(-9999.0, math.log(mass.get(token, 0.0) or 1e-300)), "bytes": None}

        content = [{**entry(sampled), "top_logprobs": [entry(token) for token in listed]}]
        choice = {"message": {"content": sampled}, "logprobs": {"content": content}, "finish_reason": "length"}
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        return httpx.Response(200, json={"choices": [choice], "usage": usage, "prompt_logprobs": None})


def _refusal(message: str) -> httpx.Response:
    return httpx.Response(400, json={"error": {"message": message, "type": "BadRequestError", "code": 400}})
