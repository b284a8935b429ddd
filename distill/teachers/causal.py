"""The teacher kind `causal`: a causal language model on this machine that scores every label exactly.

The prompt and the codes are those of the kind `openai`, so that its distribution is the one behind a server of the same
model, nothing of it hidden.
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
from distill.teachers.api.client import Terms
from distill.teachers.base import Answer
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.chat_template import ChatTemplate
from distill.teachers.prompting.label_codes import Reading, order_of, read_all
from distill.teachers.prompting.prompt import Prompt

if TYPE_CHECKING:
    from distill.teachers.language_model import LanguageModel, Prefix

_CHECKED = 3
_PROBES = ("a", "1", " ", "\n", ".")  # texts that begin unlike each other, to find what prompts have in common


class CausalConfig(BaseModel):
    """`model` is a folder, `package:NAME` or a hub id, shown as `name`; `gguf_file` names a file of that in GGUF.

    `score` asks for one-token codes, or for the labels' `names`, token by token. `permutations` is how many orders of
    the labels take turns, `min_covered` the least mass that must lie on labels. `max_tokens` bounds a question, the
    whole prompt; the model's context always does. `device_map` places a model that is too large for one device.
    `terms` say that its licence was read, for the model card.
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
    terms: Terms | None = None

    def weights(self) -> str:
        """What determines the model: the hash of its files, or its id on a hub. Raises DistillError without them."""
        return weights_version(self.model, self.gguf_file or WEIGHTS)

    def answering(self) -> dict[str, Any]:
        """The settings that determine a model's answers; the others say where it lies, how fast, and at what price."""
        aside = {"model", "gguf_file", "name", "prompt", "device_map", "batch_size", "usd_per_hour", "terms"}
        return {**self.model_dump(mode="json", exclude=aside), "prompt": self.prompt.answering()}


class CausalTeacher:
    """Reads the next token's whole distribution, or scores whole names, a batch at a time, off the event loop.

    `truncated` counts the texts that were too long for the model: their ends were cut off, never the instructions.
    """

    config_type: ClassVar[type[BaseModel]] = CausalConfig
    concurrency = 1

    def __init__(self, config: CausalConfig, labels: Sequence[str], model: LanguageModel, *, weights: str) -> None:
        self.name = f"causal:{config.name or display_name(config.gguf_file or config.model)}"
        self.labels = tuple(labels)
        self.batch_size = config.batch_size
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
        self._prefix(first, self._question("", first))  # what will not do is known before anything is asked

    @classmethod
    def from_config(cls, config: CausalConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Load the model. Raises TeacherError when it cannot be had, or the labels or the prompt will not do."""
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
        """Answer a batch in a worker thread. Raises TeacherError when the model does not answer with labels at all."""
        return await asyncio.to_thread(self._answer, texts, repeat)

    async def aclose(self) -> None:
        """The model goes with the object."""

    def next_tokens(
        self, texts: Sequence[str], repeat: int = 0
    ) -> tuple[npt.NDArray[np.float32], list[tuple[int, ...]]]:
        """Log probabilities [N, V] of the token that answers each text, and the label that each code stands for."""
        orders = [self._order(text, repeat) for text in texts]
        rows = [self._question(text, order) for text, order in zip(texts, orders, strict=True)]
        return self._next(rows, orders), orders

    def _answer(self, texts: Sequence[str], repeat: int) -> list[Answer]:
        self._check()
        start = time.perf_counter()
        orders = [self._order(text, repeat) for text in texts]
        rows = [self._question(text, order, count=True) for text, order in zip(texts, orders, strict=True)]
        readings = self._read(rows, orders)
        seconds = (time.perf_counter() - start) / max(1, len(texts))
        return [self._judge(reading, len(row), seconds) for reading, row in zip(readings, rows, strict=True)]

    def _judge(self, reading: Reading, tokens: int, seconds: float) -> Answer:
        """A reading as an answer: a label's distribution, unless the model meant something else."""
        good = reading.covered >= self._config.min_covered
        return Answer(
            reading.probabilities if good else None,
            "logprobs",
            covered=reading.covered,
            tokens=tokens,
            cost_usd=seconds * self._usd_per_second,
            seconds=seconds,
            outcome="ok" if good else "invalid",
        )

    def _check(self) -> None:
        """Before the first answer counts, see that the model answers with labels at all, asked about their names."""
        if self._checked:
            return
        texts = self.labels[:_CHECKED]
        orders = [self._order(text, 0) for text in texts]
        readings = self._read([self._question(text, order) for text, order in zip(texts, orders, strict=True)], orders)
        covered = max(reading.covered for reading in readings)
        if covered < self._config.min_covered:
            raise TeacherError(
                f"{self.name} puts {covered:.2f} of its mass on {self._config.score}, less than min_covered "
                f"{self._config.min_covered}: it wants to say something else. Give it `prompt.examples`, use an "
                "instruction-tuned model, or, for a model that reasons first, switch that off with "
                "`chat_template_kwargs: {enable_thinking: false}`"
            )
        self._checked = True

    def _read(self, rows: Sequence[list[int]], orders: Sequence[tuple[int, ...]]) -> list[Reading]:
        """What the model says of the labels, for each row of tokens."""
        if self._names:
            mine = tuple(range(len(self.labels)))
            return [read_all(self._name_mass(row, order), mine) for row, order in zip(rows, orders, strict=True)]
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
        """Log probabilities [N, V] of the next token; rows with the same prefix are read together."""
        prefixes = [self._prefix(order, row) for order, row in zip(orders, rows, strict=True)]
        scores: list[npt.NDArray[np.float32] | None] = [None] * len(rows)
        for key in {id(prefix) for prefix in prefixes}:
            alike = [index for index, prefix in enumerate(prefixes) if id(prefix) == key]
            found = self._model.next_tokens([rows[index] for index in alike], prefixes[alike[0]])
            for index, row in zip(alike, found, strict=True):
                scores[index] = row
        return np.stack([row for row in scores if row is not None])

    def _prefix(self, order: tuple[int, ...], row: list[int]) -> Prefix | None:
        """What all questions in this order begin with, read once; None for a row that does not begin with it."""
        if order not in self._prefixes:
            same = self._config.prompt.model_copy(update={"nearest": None})
            common = _common([self._tokens(text, order, same) for text in _PROBES])
            self._prefixes[order] = self._model.prefix(common) if common else None
        prefix = self._prefixes[order]
        return prefix if prefix is not None and tuple(row[: len(prefix.ids)]) == prefix.ids else None

    def _question(self, text: str, order: tuple[int, ...], *, count: bool = False) -> list[int]:
        """The tokens that ask for a text, of which as much as the model has room for.

        Raises TeacherError where it has none even for the instructions.
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

    def _order(self, text: str, repeat: int) -> tuple[int, ...]:
        return order_of(text, len(self.labels), self._config.permutations, repeat)


def _common(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with."""
    differ = (place for place, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    return rows[0][: next(differ, min(map(len, rows)))]
