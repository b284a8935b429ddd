"""The teacher kind `local`: a transformers sequence classifier on this machine, run by torch.

With a `fit` section, the model is a pretrained encoder that `distill.training.finetune` finetunes on gold labels first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from distill.errors import DistillError
from distill.sections import Optimisation, Source, added
from distill.teachers.account import Account
from distill.teachers.base import Answer, label_order
from distill.teachers.errors import TeacherError

if TYPE_CHECKING:
    from distill.students.student import Student


class Fit(BaseModel):
    """How to finetune on gold labels: the data, the share of it that is held out for calibration, and the training.

    With `folds` the labels of rows that are in the data too are cross-fitted: `distill.cross_fit` says how.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    data: Source
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    folds: int | None = added(None, ge=2, le=20)
    optimisation: Optimisation = Optimisation(epochs=3, learning_rate=5e-5)


class LocalConfig(BaseModel):
    """`model` is a folder, `package:NAME` or a hub id, shown as `name`; `usd_per_hour` is the price of the machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    aside: ClassVar[tuple[str, ...]] = ("batch_size", "usd_per_hour")
    """Keys that change no answer."""

    kind: Literal["local"] = "local"
    model: str
    name: str | None = None
    fit: Fit | None = None
    max_tokens: int = Field(default=256, ge=8)
    batch_size: int = Field(default=32, ge=1)
    usd_per_hour: float = Field(default=0.0, ge=0)


class LocalTeacher:
    """Runs a classifier in torch, one batch at a time, in a worker thread."""

    config_type: ClassVar[type[BaseModel]] = LocalConfig
    concurrency = 1

    def __init__(self, model: Student, labels: Sequence[str], *, name: str, version: str, config: LocalConfig) -> None:
        self.name = f"local:{name}"
        self.version = version
        self.labels = tuple(labels)
        self.batch_size = config.batch_size
        self.model = model
        self._order = label_order(model.labels, labels, self.name)
        self._usd_per_second = config.usd_per_hour / 3600

    @classmethod
    def from_config(cls, config: LocalConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Load the classifier. Raises TeacherError if that fails or it must be finetuned first."""
        from distill.stages import file_digest, fingerprint
        from distill.students.pretrained import display_name, weights_version
        from distill.students.sequence_classifier import load_classifier
        from distill.students.student import CARD, load_student
        from distill.truncation import truncation_side

        if config.fit is not None:
            raise TeacherError(f"the model {config.model} must be fitted first: run `reflux label` with the task")
        try:
            folder = Path(config.model)
            if (folder / CARD).is_file():
                whole = load_student(folder)
                model = replace(whole, max_tokens=min(whole.max_tokens, config.max_tokens))
                # Without a shorter limit the version stays that of earlier releases, whose answers are the same.
                shorter = [model.max_tokens] if model.max_tokens < whole.max_tokens else []
                files = [file_digest(file) for file in sorted(folder.rglob("*")) if file.is_file()]
                version = fingerprint([*files, *shorter])
            else:
                model = load_classifier(config.model, config.max_tokens)
                side = truncation_side(model.tokenizer)
                # Earlier releases always cut texts on the right and padded with 0. Their answers differ otherwise, so
                # the version does too.
                cut = [model.max_tokens] if side == "right" else [model.max_tokens, side]
                padding = [{"pad_id": pad_id}] if (pad_id := model.network.module.pad_id) else []
                version = fingerprint([weights_version(config.model), *cut, *padding])
        except DistillError as error:
            raise TeacherError(str(error)) from error
        if model.multi_label:
            raise TeacherError(f"{config.model} gives a text several labels; a teacher must give it a distribution")
        return cls(model, labels, name=config.name or display_name(config.model), version=version, config=config)

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer a batch in a worker thread. A text without any token is `invalid`."""
        return await asyncio.to_thread(self._answer, texts)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the pooled last hidden state of each text, [N, d]. Every text must have a token."""
        from distill.students.student import embed

        return embed(self.model.network.module, self.model.encode(texts), batch_size=self.batch_size)

    async def aclose(self) -> None:
        """Do nothing: the model is freed with the object."""

    def _answer(self, texts: Sequence[str]) -> list[Answer]:
        from distill.students.student import predict, probabilities

        start = time.perf_counter()
        rows = self.model.encode(texts)
        read = [at for at, row in enumerate(rows) if row]
        probabilities_of = {}
        if read:
            logits = predict(self.model.network.module, [rows[at] for at in read], batch_size=self.batch_size)
            answers = probabilities(logits, self.model.temperature)[:, self._order]
            probabilities_of = dict(zip(read, answers, strict=True))
        seconds = (time.perf_counter() - start) / len(texts)
        cost = seconds * self._usd_per_second
        return [
            Answer(
                probabilities_of.get(at),
                "local",
                tokens=len(row),
                cost_usd=cost,
                seconds=seconds,
                outcome="ok" if row else "invalid",
            )
            for at, row in enumerate(rows)
        ]
