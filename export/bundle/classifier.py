"""Run a bundle's graph: tokenise texts, run them through ONNX Runtime, read the answers.

The same code scores gates and gap reports and serves traffic, so what is measured is what is served. The caller decides
which texts share a run: in a graph that scales activations over its batch, the other texts change an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from distill.errors import one_line
from distill.truncation import truncate_at
from export.bundle.external_data import check_external_files
from export.bundle.format import MODEL, TOKENIZER, Bundle, BundleError
from export.bundle.guard import is_panic, panics_are_errors
from export.bundle.io_binding import BoundRun, Feeds
from export.bundle.providers import AUTO, CPU, Device
from export.bundle.sequence_packing import NAMES, Array, SequencePacking
from export.bundle.session import create_session
from export.bundle.wordpiece_cache import WordPieceCache

Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities", "embedding")

Execute = Callable[[Feeds], Sequence[Floats]]
"""Runs a graph: maps its inputs for some texts to its `OUTPUTS`, each [texts, …]."""


class Prediction(NamedTuple):
    """The answer to one text: `logits` and `probabilities` [K], `embedding` [d], all float32.

    `tokens` is how many tokens the graph read, `unknown` how many of them stand for something that the vocabulary does
    not have, `truncated` whether the text had more. `best` is the index of the most probable label (the first of
    equals), `score` its probability. `stage` is the place of the stage of a cascade that answered, 0 in other bundles;
    the embedding is then that of the first stage. `deferred` is what became of a text that the stages left to the
    teacher, in service alone; None for every other text.
    """

    probabilities: Floats
    logits: Floats
    embedding: Floats
    tokens: int
    truncated: bool
    best: int
    score: float
    unknown: int = 0
    stage: int = 0
    deferred: Deferred | None = None


class Deferred(NamedTuple):
    """What became of a text that was deferred to the teacher: `student` is the prediction of the last stage.

    `fallback` says why that is also the answer, such as `timeout`; None where the teacher answered.
    """

    student: Prediction
    fallback: str | None


class Encoded(NamedTuple):
    """A text as the graph reads it: its token ids, and whether the text had more."""

    ids: list[int]
    truncated: bool


class InferenceError(Exception):
    """There is no answer: the tokenizer or the graph failed, or the graph returned values that are not numbers."""


class GraphTokenizer:
    """A tokenizer whose truncation is set once, so that threads may share it.

    Raises BundleError when the file is not a tokenizer, or gives more than `max_tokens`.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        try:
            with panics_are_errors():
                self._tokenizer = Tokenizer.from_file(str(path))
                self._tokenizer.no_padding()
                truncate_at(self._tokenizer, max_tokens)
                self._cache = WordPieceCache.for_tokenizer(self._tokenizer)
                longest = len(self._tokenizer.encode("a " * max_tokens).ids)
                vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
                content = json.loads(path.read_text(encoding="utf-8"))
                self._content = _hash(content | {"truncation": None, "padding": None})
                self.unknown_id = _unknown_id(content["model"], vocabulary)
                """The id of what the vocabulary does not have; None if it has everything, as one of bytes does."""
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a tokenizer ({one_line(error)}); export the bundle again") from error
        if longest > max_tokens:
            raise BundleError(
                f"{path}: makes {longest} tokens of a text that is cut to 'max_tokens', which is {max_tokens}; "
                "export the bundle again"
            )
        self.highest_id = max(vocabulary.values(), default=0)
        """The highest token id that the tokenizer can give."""

    def encode(self, text: str) -> Encoded:
        """Tokenise a text, truncated to what the graph reads.

        Raises InferenceError for a text that the tokenizer fails on or finds no token in. The message leaves out the
        tokenizer's own, which may repeat the text.
        """
        try:
            cached = self._cache.encode(text) if self._cache is not None else None
            if cached is not None:
                return Encoded(*cached)
            encoding = self._tokenizer.encode(text)
        except BaseException as error:  # not only Exception: a panic is none, and must not end the thread
            if isinstance(error, Exception) or is_panic(error):
                raise InferenceError(f"the tokenizer failed on this text ({type(error).__name__})") from None
            raise
        if not encoding.ids:
            raise InferenceError("the tokenizer finds no token in this text")
        return Encoded(encoding.ids, bool(encoding.overflowing))

    def keeps(self, encoded: Encoded, by: GraphTokenizer) -> bool:
        """Whether it is known to make of a text what the tokenizer `by` made of it, so that it need not tokenise it.

        Tokenizers that differ in the length at which they truncate do, where the text is within both lengths.
        """
        if by is self:
            return True
        return self._content == by._content and not encoded.truncated and len(encoded.ids) <= self.max_tokens


class Classifier:
    """A graph with its tokenizer, ready to answer. Threads may share it.

    `execute` runs the graph; the default suits the device of the session. `packed` says that the graph is unpadded and
    takes the inputs of sequence packing. Raises BundleError for a graph with other inputs or outputs.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: GraphTokenizer,
        classes: int,
        *,
        execute: Execute | None = None,
    ) -> None:
        inputs = [value.name for value in session.get_inputs()]
        outputs = [value.name for value in session.get_outputs()]
        self.packed = set(NAMES) <= set(inputs)
        usual = set(inputs) - set(NAMES) if self.packed else set(inputs)
        if not usual <= set(INPUTS) or "input_ids" not in usual or not set(OUTPUTS) <= set(outputs):
            raise BundleError(f"the graph takes {inputs} and returns {outputs}, expected {INPUTS} and {OUTPUTS}")
        self.provider: str = session.get_providers()[0]
        self._session = session
        self._execute = execute or _executor(session, tokenizer.max_tokens, packed=self.packed)
        self.tokenizer = tokenizer
        self._takes_mask = "attention_mask" in inputs
        self._packing = SequencePacking(tokenizer.max_tokens) if self.packed else None
        self._single_text_inputs: dict[int, dict[str, Array]] = {}
        """Cached inputs, other than ids, of single-text runs, by length."""

        self._classes = classes

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        threads: int = 1,
        device: Device = AUTO,
        tokenizer: GraphTokenizer | None = None,
        graph: str = MODEL,
    ) -> Classifier:
        """Load the classifier of a bundle. Give its `tokenizer` if that is loaded already; `graph` is the file to run.

        Raises BundleError when the graph or the tokenizer cannot be loaded, or the device is not available.
        """
        manifest, path = bundle.manifest, bundle.path / graph
        tokenizer = tokenizer or GraphTokenizer(bundle.path / TOKENIZER, manifest.max_tokens)
        device = device.for_bundle(manifest)
        check_external_files(path, manifest)
        session = create_session(path, threads=threads, device=device, max_tokens=manifest.max_tokens)
        try:
            return cls(session, tokenizer, len(manifest.labels))
        except BundleError as error:
            raise BundleError(f"{path}: {error}; export the bundle again") from error

    @property
    def on_gpu(self) -> bool:
        """Whether the graph runs on another device than the CPU."""
        return self.provider != CPU

    def encode(self, text: str) -> Encoded:
        """Tokenise a text for `run`."""
        return self.tokenizer.encode(text)

    def run(self, rows: Sequence[Encoded]) -> list[Prediction]:
        """Answer texts in one run, the shorter ones padded.

        Raises InferenceError when the graph fails, or returns values that are not numbers for any of the texts.
        """
        feeds = self._feeds([row.ids for row in rows])
        try:
            logits, probabilities, embeddings = self._execute(feeds)
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(f"the graph failed on {feeds['input_ids'].shape} tokens: {one_line(error)}") from error
        if probabilities.shape != (len(rows), self._classes):
            raise _not_probabilities(probabilities)
        predictions, unknown_id = [], self.tokenizer.unknown_id
        for at, (row, best) in enumerate(zip(rows, probabilities.argmax(axis=1).tolist(), strict=True)):
            score = float(probabilities[at, best])
            if not isfinite(score):  # numpy takes NaN for the largest value of a row
                raise _not_probabilities(probabilities)
            ids, truncated = row
            unknown = 0 if unknown_id is None else ids.count(unknown_id)
            predictions.append(
                Prediction(probabilities[at], logits[at], embeddings[at], len(ids), truncated, best, score, unknown)
            )
        return predictions

    def answer(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer texts in one run. Raises InferenceError as `encode` and `run` do."""
        return self.run([*map(self.encode, texts)])

    def classify(self, text: str) -> Prediction:
        """Answer one text. Raises InferenceError as `answer` does."""
        return self.answer([text])[0]

    def probabilities(self, texts: Sequence[str], *, track: Callable[[Iterable[str]], Iterable[str]] = iter) -> Floats:
        """Answer many texts, one run each: probabilities [N, K]. `track` may wrap the iteration in a progress bar."""
        return stacked([self.classify(text) for text in track(texts)], self._classes)

    def shrink(self) -> None:
        """Release the memory that a CPU session keeps from larger runs. Raises InferenceError when the graph fails."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self._session.run(OUTPUTS, self._feeds([[0]]), options)
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(f"the graph failed on one token: {one_line(error)}") from error

    def check(self) -> None:
        """Run the graph on the highest token id, and check the shapes of its outputs.

        Raises InferenceError when the graph does not take every id of the tokenizer, or an output has another shape or
        type than expected.
        """
        highest = self.tokenizer.highest_id
        try:
            outputs = [np.asarray(values) for values in self._execute(self._feeds([[highest]]))]
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(
                f"the graph does not take the id {highest}, the highest of the tokenizer ({one_line(error)})"
            ) from error
        for name, values in zip(OUTPUTS, outputs, strict=True):
            width = values.shape[-1] if name == "embedding" and values.ndim else self._classes
            if values.shape != (1, width) or values.dtype != np.float32:
                raise InferenceError(
                    f"the graph returns {name!r} as {values.dtype} {list(values.shape)} for one text, expected float32 "
                    f"[1, {width}] for {self._classes} labels"
                )

    def _feeds(self, rows: list[list[int]]) -> dict[str, Array]:
        """Return the graph's inputs, [texts, longest], with the packing inputs if it takes them.

        A padded position has the id 0 and is masked.
        """
        if len(rows) == 1:
            (ids,) = rows
            others = self._single_text_inputs.get(len(ids))
            if others is None:
                others = self._other_inputs(np.ones((1, len(ids)), dtype=np.int64), [len(ids)])
                self._single_text_inputs[len(ids)] = others
            return {"input_ids": np.array(rows, dtype=np.int64), **others}
        input_ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for index, ids in enumerate(rows):
            input_ids[index, : len(ids)] = ids
            mask[index, : len(ids)] = 1
        return {"input_ids": input_ids, **self._other_inputs(mask, [*map(len, rows)])}

    def _other_inputs(self, mask: Array, lengths: list[int]) -> dict[str, Array]:
        """Return the graph's inputs other than ids."""
        feeds = {"attention_mask": mask} if self._takes_mask else {}
        return feeds if self._packing is None else feeds | self._packing.pack(lengths)


def stacked(answers: Sequence[Prediction], classes: int) -> Floats:
    """Return the probabilities of N answers, [N, classes]."""
    rows = [answer.probabilities for answer in answers]
    return np.stack(rows) if rows else np.empty((0, classes), dtype=np.float32)


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    """Return the id of the unknown token of a tokenizer's model; None if it has none.

    A unigram model names the id, every other kind the token.
    """
    found = model.get("unk_id", vocabulary.get(model.get("unk_token") or ""))
    return found if isinstance(found, int) else None


def _not_probabilities(values: Floats) -> InferenceError:
    return InferenceError(f"the graph returned {values.shape} values that are not probabilities")


def _executor(session: onnxruntime.InferenceSession, max_tokens: int, *, packed: bool) -> Execute:
    """Return how to run a session: bound to the memory of its GPU, plainly on the CPU."""
    provider = session.get_providers()[0]
    if provider == CPU or packed:  # I/O binding pads to a few shapes, and an unpadded graph is never padded
        return partial(session.run, OUTPUTS)
    index = int(session.get_provider_options()[provider]["device_id"])
    return BoundRun(session, OUTPUTS, max_tokens=max_tokens, device="cuda", index=index)
