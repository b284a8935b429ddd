"""The teacher kind `causal`: a causal language model on this machine that scores every label exactly.

Its prompt and label codes are those of the kind `openai`, so a server of the same model has the same distribution, of
which it shows only a part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from distill.errors import DistillError
from distill.stages import fingerprint
from distill.students.pretrained import WEIGHTS, display_name, weights_version
from distill.teachers.account import Account
from distill.teachers.api.terms import TermsOfUse
from distill.teachers.base import Answer
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.chat_template import ChatTemplate
from distill.teachers.prompting.label_codes import Reading, order_of, read_all
from distill.teachers.prompting.prompt import Prompt

if TYPE_CHECKING:
    from distill.teachers.language_model import LanguageModel, Prefix

_CHECKED_LABELS = 3
_PROBES = ("a", "1", " ", "\n", ".")  # texts with different beginnings, to find the common prefix of prompts


class CausalConfig(BaseModel):
    """`model` is a folder, `package:NAME` or a hub id, shown as `name`; `gguf_file` names a GGUF file in it.

    `score` scores label codes of one token, or the labels' `names`, token by token. `permutations` is the number of
    orders of the labels, `min_covered` the least mass that must be on labels. `max_tokens` limits the whole prompt, as
    the model's context does. `device_map` places a model that is too large for one device. `terms` confirm that its
    licence was read, for the model card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["causal"] = "causal"
    model: str
    gguf_file: str | None = None
    name: str | None = None
    score: Literal["codes", "names"] = "codes"
    prompt: Prompt = Prompt()
    chat_template_kwargs: dict[str, Any] = {}
    permutations: int = Field(default=2, ge=1, le=16)
    min_covered: float = Field(default=0.5, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=8)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device_map: str | dict[str, int | str] | None = None
    batch_size: int = Field(default=8, ge=1)
    usd_per_hour: float = Field(default=0.0, ge=0)
    terms: TermsOfUse | None = None

    def weights(self) -> str:
        """The identity of the model: the hash of its files, or its hub id. Raises DistillError if it is missing."""
        return weights_version(self.model, self.gguf_file or WEIGHTS)

    def answering(self) -> dict[str, Any]:
        """The settings that determine answers, without those for paths, speed and prices."""
        others = {"model", "gguf_file", "name", "prompt", "device_map", "batch_size", "usd_per_hour", "terms"}
        return {**self.model_dump(mode="json", exclude=others), "prompt": self.prompt.answering()}


class CausalTeacher:
    """Computes the whole distribution of the next token, or scores whole names, a batch at a time in a worker thread.

    `truncated` counts the texts that were too long for the model. Only their ends are cut off, never the instructions.
    """

    config_type: ClassVar[type[BaseModel]] = CausalConfig
    concurrency = 1

    def __init__(self, config: CausalConfig, labels: Sequence[str], model: LanguageModel, *, weights: str) -> None:
        self.name = f"causal:{config.name or display_name(config.gguf_file or config.model)}"
        self.labels = tuple(labels)
        self.batch_size = config.batch_size
        self.orders = config.permutations
        self.version = fingerprint([weights, config.answering(), self.labels])
        self.truncated = 0
        self._config = config
        self._model = model
        self._usd_per_second = config.usd_per_hour / 3600
        self._prefixes: dict[tuple[int, ...], Prefix | None] = {}
        self._checked = False
        self._template = ChatTemplate(model.tokenizer, config.chat_template_kwargs)
        self.codes: tuple[str, ...] = ()
        self._names: list[list[int]] = []
        if config.score == "codes":
            self.codes = self._template.codes(len(labels))
        else:
            self._names = [self._template.answer(label, ended=True) for label in labels]
        self._code_ids = [self._template.variants(code) for code in self.codes]
        self._limit = min(model.context, config.max_tokens or model.context) - max(map(len, self._names), default=0)
        first = tuple(range(len(labels)))
        self._prefix(first, self._question("", first))  # raises errors before anything is asked

    @classmethod
    def from_config(cls, config: CausalConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Load the model. Raises TeacherError if that fails, or the labels or the prompt do not fit."""
        if unknown := config.prompt.unknown(labels):
            raise TeacherError(f"teacher.prompt names labels {unknown[:5]} that the task does not have; correct them")
        try:
            from distill.teachers.language_model import LanguageModel

            model = LanguageModel.load(
                config.model, gguf_file=config.gguf_file, dtype=config.dtype, device_map=config.device_map
            )
            return cls(config, labels, model, weights=config.weights())
        except ImportError as error:
            raise TeacherError(
                f"{error}: a teacher of kind causal needs torch; `pip install reflux[distill]`"
            ) from error
        except (DistillError, ValueError) as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer a batch in a worker thread. Raises TeacherError if the model does not answer with labels at all."""
        return await asyncio.to_thread(self._answer, texts, repeat)

    async def aclose(self) -> None:
        """Do nothing: the model is freed with the object."""

    def next_tokens(
        self, texts: Sequence[str], repeat: int = 0
    ) -> tuple[npt.NDArray[np.float32], list[tuple[int, ...]]]:
        """Log probabilities [N, V] of the answer's token for each text, and the label, by index, of each code."""
        rows, orders = self._questions(texts, repeat)
        return self._next(rows, orders), orders

    def _answer(self, texts: Sequence[str], repeat: int) -> list[Answer]:
        self._check()
        start = time.perf_counter()
        rows, orders = self._questions(texts, repeat, count=True)
        readings = self._read(rows, orders)
        seconds = (time.perf_counter() - start) / max(1, len(texts))
        return [self._answer_of(reading, len(row), seconds) for reading, row in zip(readings, rows, strict=True)]

    def _answer_of(self, reading: Reading, tokens: int, seconds: float) -> Answer:
        """The answer by a reading; invalid if too little mass is on labels."""
        valid = reading.covered >= self._config.min_covered
        return Answer(
            reading.probabilities if valid else None,
            "logprobs",
            covered=reading.covered,
            tokens=tokens,
            cost_usd=seconds * self._usd_per_second,
            seconds=seconds,
            outcome="ok" if valid else "invalid",
        )

    def _check(self) -> None:
        """Check once, before the first answer, that the model classifies the names of labels with labels."""
        if self._checked:
            return
        readings = self._read(*self._questions(self.labels[:_CHECKED_LABELS]))
        covered = max(reading.covered for reading in readings)
        if covered < self._config.min_covered:
            raise TeacherError(
                f"{self.name} puts {covered:.2f} of its mass on {self._config.score}, less than min_covered "
                f"{self._config.min_covered}: it means to answer something else. Give it `prompt.examples`, use an "
                "instruction-tuned model, or, for a model that reasons first, switch that off with "
                "`chat_template_kwargs: {enable_thinking: false}`"
            )
        self._checked = True

    def _read(self, rows: Sequence[list[int]], orders: Sequence[tuple[int, ...]]) -> list[Reading]:
        """The distribution over labels for each row of tokens."""
        if self._names:
            identity = tuple(range(len(self.labels)))
            return [read_all(self._name_mass(row, order), identity) for row, order in zip(rows, orders, strict=True)]
        scores = np.exp(self._next(rows, orders), dtype=np.float64)
        mass = np.stack([scores[:, ids].sum(axis=1) for ids in self._code_ids], axis=1)
        return [read_all(of_codes, order) for of_codes, order in zip(mass.tolist(), orders, strict=True)]

    def _name_mass(self, row: list[int], order: tuple[int, ...]) -> list[float]:
        """The probability of each label's whole name."""
        prefix = self._prefix(order, row)
        scores = self._model.continuations(row, self._names, prefix, batch_size=self.batch_size)
        mass: list[float] = np.exp(scores).tolist()
        return mass

    def _next(self, rows: Sequence[list[int]], orders: Sequence[tuple[int, ...]]) -> npt.NDArray[np.float32]:
        """Log probabilities [N, V] of the next token; rows with the same prefix share a run."""
        prefixes = [self._prefix(order, row) for order, row in zip(orders, rows, strict=True)]
        scores: list[npt.NDArray[np.float32] | None] = [None] * len(rows)
        for key in {id(prefix) for prefix in prefixes}:
            alike = [index for index, prefix in enumerate(prefixes) if id(prefix) == key]
            found = self._model.next_tokens([rows[index] for index in alike], prefixes[alike[0]])
            for index, row in zip(alike, found, strict=True):
                scores[index] = row
        return np.stack([row for row in scores if row is not None])

    def _prefix(self, order: tuple[int, ...], row: list[int]) -> Prefix | None:
        """The cached common prefix of all questions in this order; None for a row that does not begin with it."""
        if order not in self._prefixes:
            same = self._config.prompt.model_copy(update={"nearest": None})
            common = _common_prefix([self._tokens(text, order, same) for text in _PROBES])
            self._prefixes[order] = self._model.prefix(common) if common else None
        prefix = self._prefixes[order]
        return prefix if prefix is not None and tuple(row[: len(prefix.ids)]) == prefix.ids else None

    def _questions(
        self, texts: Sequence[str], repeat: int = 0, *, count: bool = False
    ) -> tuple[list[list[int]], list[tuple[int, ...]]]:
        """The tokens of each question, and the label, by index, that each code stands for in it."""
        orders = [order_of(text, len(self.labels), self._config.permutations, repeat) for text in texts]
        return [self._question(text, order, count=count) for text, order in zip(texts, orders, strict=True)], orders

    def _question(self, text: str, order: tuple[int, ...], *, count: bool = False) -> list[int]:
        """The tokens of a question, with the text cut to the model's context.

        Raises TeacherError if even the instructions do not fit.
        """
        ids = self._tokens(text, order, self._config.prompt)
        if len(ids) <= self._limit:
            return ids
        self.truncated += count
        fits, not_fits = 0, len(text)
        while not_fits - fits > 1:
            middle = (fits + not_fits) // 2
            enough = len(self._tokens(text[:middle], order, self._config.prompt)) <= self._limit
            fits, not_fits = (middle, not_fits) if enough else (fits, middle)
        ids = self._tokens(text[:fits], order, self._config.prompt)
        if len(ids) > self._limit:
            raise TeacherError(
                f"{self.name}: the prompt alone takes {len(ids)} tokens, and there is room for {self._limit}: give it "
                "fewer or shorter examples and descriptions, raise `max_tokens`, or use a model with a longer context"
            )
        return ids

    def _tokens(self, text: str, order: tuple[int, ...], prompt: Prompt) -> list[int]:
        names = self.codes or [self.labels[index] for index in order]
        return self._template.ids(prompt.messages(text, self.labels, order, names=names))


def _common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """The longest common prefix of all rows."""
    differ = (place for place, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    return rows[0][: next(differ, min(map(len, rows)))]
