"""How chat messages become the tokens that a causal model goes on from: by its own template, else as plain text.

Uses a tokenizer of transformers that somebody else loaded, so that this file loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.teachers.errors import TeacherError
from distill.teachers.prompting.label_codes import codes, forms, pairs

Messages = Sequence[Mapping[str, str]]

_SPACES = (" ", "▁", "Ġ")  # how vocabularies write one
_ASKING = "Answer:"
_SAMPLE: Messages = ({"role": "user", "content": "?"},)


class ChatTemplate:
    """One tokenizer's way to put messages. `arguments` are handed to its template, such as `enable_thinking`."""

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments or {})
        self._templated = bool(tokenizer.chat_template)
        self._vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        self._lead = "" if self._templated else " "

    def ids(self, messages: Messages) -> list[int]:
        """The tokens of messages, up to where the answer begins."""
        return self._ids(self._text(messages))

    def answer(self, text: str, *, ended: bool = False) -> list[int]:
        """The tokens that say an answer, with the one that ends it if it is to be `ended`."""
        asked = self._text(_SAMPLE)
        said = f"{asked}{self._lead}{text}"
        begun, bare = len(self._ids(asked)), self._ids(said)
        end = self._ids(said + self._end(asked, text))[len(bare) : len(bare) + 1] if ended else []
        return [*bare[begun:], *end]

    def variants(self, code: str) -> list[int]:
        """The tokens of the vocabulary that say a code, whatever surface form of it they are."""
        written = {form.replace(" ", space) for form in forms(code) for space in _SPACES}
        return sorted({self._vocabulary[token] for token in written & self._vocabulary.keys()})

    def codes(self, count: int) -> tuple[str, ...]:
        """Codes for K labels, each one token where an answer begins.

        Those of `label_codes`, unless this tokenizer splits them. Raises TeacherError when all kinds are split.
        """
        for candidates in (codes(count), pairs()):
            kept = [code for code in candidates if len(self.answer(code)) == 1 and self.variants(code)]
            if len(kept) >= count:
                return tuple(kept[:count])
        raise TeacherError(
            f"the model's tokenizer has no {count} codes of one token; score the labels by their names "
            "(`score: names`), or group them"
        )

    def _ids(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
        ids: list[int] = self._tokenizer(text, add_special_tokens=not self._templated)["input_ids"]
        return ids

    def _text(self, messages: Messages) -> str:
        return self._template(messages, prompt=True) if self._templated else _plain(messages)

    def _end(self, asked: str, text: str) -> str:
        """What follows an answer."""
        if not self._templated:
            return "\n"
        whole = self._template([*_SAMPLE, {"role": "assistant", "content": text}], prompt=False)
        said = f"{asked}{text}"
        return whole[len(said) :] if whole.startswith(said) else self._tokenizer.eos_token or ""

    def _template(self, messages: Messages, *, prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._apply(messages, prompt)
        except TemplateError as error:
            if messages[0]["role"] != "system":
                raise TeacherError(f"the model's chat template cannot be used: {error}") from error
        return self._template(_without_system(messages), prompt=prompt)

    def _apply(self, messages: Messages, prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=prompt, **self._arguments
        )
        return text


def _plain(messages: Messages) -> str:
    """Messages as text that a model without a template goes on with: each question is answered on a line of its own."""
    lines: list[str] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            lines[-1] += f" {content}"
        else:
            lines.append(f"{content}\n" if role == "system" else f"{content}\n{_ASKING}")
    return "\n".join(lines)


def _without_system(messages: Messages) -> Messages:
    """The same for a template that knows no system message: the first user says it."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
