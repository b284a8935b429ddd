"""Turns chat messages into the tokens that a causal model continues: by its own template, else as plain text.

The caller passes a loaded tokenizer of transformers, so importing this file loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.teachers.errors import TeacherError
from distill.teachers.prompting.label_codes import forms, label_codes, letter_pairs

Messages = Sequence[Mapping[str, str]]

_SPACES = (" ", "▁", "Ġ")  # how vocabularies write a space
_ANSWER_CUE = "Answer:"
_SAMPLE: Messages = ({"role": "user", "content": "?"},)


class ChatTemplate:
    """A tokenizer with its chat template. `arguments`, such as `enable_thinking`, are passed to the template."""

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments or {})
        self._templated = bool(tokenizer.chat_template)
        self._vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        self._lead = "" if self._templated else " "

    def ids(self, messages: Messages) -> list[int]:
        """The tokens of messages, up to the beginning of the answer."""
        return self._ids(self._text(messages))

    def answer(self, text: str, *, ended: bool = False) -> list[int]:
        """The tokens of an answer, including its end token if `ended`."""
        question = self._text(_SAMPLE)
        answered = f"{question}{self._lead}{text}"
        ids = self._ids(answered)
        end = self._ids(answered + self._end(question, text))[len(ids) : len(ids) + 1] if ended else []
        return [*ids[len(self._ids(question)) :], *end]

    def variants(self, code: str) -> list[int]:
        """The tokens of the vocabulary that stand for a code, in any of its forms."""
        written = {form.replace(" ", space) for form in forms(code) for space in _SPACES}
        return sorted({self._vocabulary[token] for token in written & self._vocabulary.keys()})

    def codes(self, count: int) -> tuple[str, ...]:
        """Codes for K labels, each a single token at the beginning of an answer.

        They are those of `label_codes`, or pairs of letters if the tokenizer splits these. Raises TeacherError if it
        splits both.
        """
        for candidates in (label_codes(count), letter_pairs()):
            kept = [code for code in candidates if len(self.answer(code)) == 1 and self.variants(code)]
            if len(kept) >= count:
                return tuple(kept[:count])
        raise TeacherError(
            f"the model's tokenizer has no {count} codes of one token; score the labels by their names "
            "(`score: names`), or group them"
        )

    def _ids(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode("utf-8")  # tokenizers reject lone surrogates
        ids: list[int] = self._tokenizer(text, add_special_tokens=not self._templated)["input_ids"]
        return ids

    def _text(self, messages: Messages) -> str:
        return self._template(messages, prompt=True) if self._templated else _plain(messages)

    def _end(self, question: str, text: str) -> str:
        """The text that follows an answer."""
        if not self._templated:
            return "\n"
        whole = self._template([*_SAMPLE, {"role": "assistant", "content": text}], prompt=False)
        answered = f"{question}{text}"
        return whole[len(answered) :] if whole.startswith(answered) else self._tokenizer.eos_token or ""

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
    """Messages as plain text for a model without a template: each answer is on the line of its cue."""
    lines: list[str] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            lines[-1] += f" {content}"
        else:
            lines.append(f"{content}\n" if role == "system" else f"{content}\n{_ANSWER_CUE}")
    return "\n".join(lines)


def _without_system(messages: Messages) -> Messages:
    """The messages with the system message moved into the first user message."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
