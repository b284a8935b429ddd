"""A bundle's graph on ONNX Runtime: tokenise, run, read. The one place that makes inference sessions.

The same code scores gates and gap reports and serves traffic, so what is measured is what is served. Whether texts may
share a run is for the caller to know: in a graph that scales activations over its batch a neighbour changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from distill.truncation import truncate_at
from export.bundle.external_data import external_files
from export.bundle.format import MODEL, TOKENIZER, Bundle, BundleError, Manifest
from export.bundle.guard import is_panic, one_line, panics_are_errors
from export.bundle.io_binding import BoundRun, Feeds
from export.bundle.providers import AUTO, CPU, CUDA, TENSORRT, Device, providers
from export.bundle.sequence_packing import NAMES, Array, Rows
from export.bundle.wordpiece_cache import Words

Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities", "embedding")

_ERRORS = 3
"""The severity from which ONNX Runtime writes lines of its own, which are no log of ours."""

_REMEDIES = {
    CPU: "export the bundle again",
    CUDA: "see that a GPU, its driver, CUDA and cuDNN fit this build of ONNX Runtime, or ask for the device cpu",
    TENSORRT: "see that the TensorRT that this build of ONNX Runtime needs is on LD_LIBRARY_PATH, or ask for cuda",
}

Execute = Callable[[Feeds], Sequence[Floats]]
"""Runs a graph: its inputs for some texts to its `OUTPUTS`, each [texts, …]."""

onnxruntime.disable_telemetry_events()  # of builds for Windows; for others see the package
onnxruntime.set_default_logger_severity(_ERRORS)


class Prediction(NamedTuple):
    """One text's answer: `logits` and `probabilities` [K], `embedding` [d], all float32.

    `tokens` counts those the graph read, `truncated` says that the text had more. `best` is the index of the most
    probable label, of equal ones the first, and `score` its probability.
    """

    probabilities: Floats
    logits: Floats
    embedding: Floats
    tokens: int
    truncated: bool
    best: int
    score: float


class Encoded(NamedTuple):
    """A text as the graph reads it: its token ids, and whether it had more."""

    ids: list[int]
    truncated: bool


class InferenceError(Exception):
    """The graph gave no usable answer (it failed, or returned values that are not numbers)."""


class GraphTokenizer:
    """A tokenizer with its truncation set once, so that threads may share it."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        try:
            with panics_are_errors():
                self._tokenizer = Tokenizer.from_file(str(path))
                self._tokenizer.no_padding()
                truncate_at(self._tokenizer, max_tokens)
                self._words = Words.of(self._tokenizer)
                longest = len(self._tokenizer.encode("a " * max_tokens).ids)
                vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a tokenizer ({one_line(error)}); export the bundle again") from error
        if longest > max_tokens:
            raise BundleError(
                f"{path}: makes {longest} tokens of a text that is cut to 'max_tokens', which is {max_tokens}; "
                "export the bundle again"
            )
        self.highest_id = max(vocabulary.values(), default=0)
        """The highest token id that a text may be given."""

    def encode(self, text: str) -> Encoded:
        """Tokenise a text as far as the graph reads it.

        Raises InferenceError for one that the tokenizer cannot take, or in which it finds no token. It does not say
        why: that may repeat the text.
        """
        try:
            found = self._words.encode(text) if self._words is not None else None
            if found is not None:
                return Encoded(*found)
            encoding = self._tokenizer.encode(text)
        except BaseException as error:  # not only Exception: a panic in it is none, and must not end the thread
            if isinstance(error, Exception) or is_panic(error):
                raise InferenceError(f"the tokenizer failed on this text ({type(error).__name__})") from None
            raise
        if not encoding.ids:
            raise InferenceError("the tokenizer finds no token in this text")
        return Encoded(encoding.ids, bool(encoding.overflowing))


class Classifier:
    """A graph with its tokenizer, ready to answer. Threads may share it.

    `execute` runs the graph; by default as the device of the session needs it. `packed` says that the graph computes
    nothing for padding; it takes the inputs of `rows` beside the usual ones.
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
        self._execute = execute or _execution(session, tokenizer.max_tokens, packed=self.packed)
        self.tokenizer = tokenizer
        self._takes_mask = "attention_mask" in inputs
        self._rows = Rows(tokenizer.max_tokens) if self.packed else None
        self._beside_one: dict[int, dict[str, Array]] = {}
        """What a text of each length alone is given beside its ids."""

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
        """The classifier of a bundle, with its tokenizer where that is loaded already. `graph` is the file to run.

        Raises BundleError when its graph or tokenizer cannot be loaded, or the device cannot be had.
        """
        manifest, path = bundle.manifest, bundle.path / graph
        tokenizer = tokenizer or GraphTokenizer(bundle.path / TOKENIZER, manifest.max_tokens)
        device = device.for_bundle(manifest)
        _check_files(path, manifest)
        session = create_session(path, threads=threads, device=device, max_tokens=manifest.max_tokens)
        try:
            return cls(session, tokenizer, len(manifest.labels))
        except BundleError as error:
            raise BundleError(f"{path}: {error}; export the bundle again") from error

    @property
    def on_gpu(self) -> bool:
        """Whether the graph runs elsewhere than on the CPU."""
        return self.provider != CPU

    def encode(self, text: str) -> Encoded:
        """Tokenise a text, for `run`."""
        return self.tokenizer.encode(text)

    def run(self, rows: Sequence[Encoded]) -> list[Prediction]:
        """Answer texts in one run, the shorter ones padded.

        Raises InferenceError when the graph fails or returns values that are not numbers, be it for one row alone.
        """
        feeds = self._feeds([row.ids for row in rows])
        try:
            logits, probabilities, embeddings = self._execute(feeds)
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(f"the graph failed on {feeds['input_ids'].shape} tokens: {one_line(error)}") from error
        if probabilities.shape != (len(rows), self._classes):
            raise _not_probabilities(probabilities)
        predictions = []
        for at, (row, best) in enumerate(zip(rows, probabilities.argmax(axis=1).tolist(), strict=True)):
            score = float(probabilities[at, best])
            if not isfinite(score):  # what is not a number is the largest of its row, as numpy sees it
                raise _not_probabilities(probabilities)
            predictions.append(
                Prediction(probabilities[at], logits[at], embeddings[at], len(row.ids), row.truncated, best, score)
            )
        return predictions

    def classify(self, text: str) -> Prediction:
        """Answer one text. Raises InferenceError as `run` does."""
        return self.run([self.encode(text)])[0]

    def probabilities(self, texts: Sequence[str], *, track: Callable[[Iterable[str]], Iterable[str]] = iter) -> Floats:
        """Probabilities [N, K] of many texts, one run each. `track` may wrap the iteration in a progress bar."""
        rows = [self.classify(text).probabilities for text in track(texts)]
        return np.stack(rows) if rows else np.empty((0, self._classes), dtype=np.float32)

    def shrink(self) -> None:
        """Give back the memory of larger runs, which a session on the CPU keeps. Raises InferenceError."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self._session.run(OUTPUTS, self._feeds([[0]]), options)
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(f"the graph failed on one token: {one_line(error)}") from error

    def check(self) -> None:
        """Run the graph on the highest token id, and look at the shapes of what it gives.

        Raises InferenceError when the graph does not take all the tokenizer's ids, or has not an output per label.
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
        """The graph's inputs, [texts, longest], with those of `rows` where it is packed.

        A padded place has the id 0 and is masked.
        """
        if len(rows) == 1:
            (ids,) = rows
            beside = self._beside_one.get(len(ids))
            if beside is None:
                beside = self._beside(np.ones((1, len(ids)), dtype=np.int64), [len(ids)])
                self._beside_one[len(ids)] = beside
            return {"input_ids": np.array(rows, dtype=np.int64), **beside}
        input_ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for index, ids in enumerate(rows):
            input_ids[index, : len(ids)] = ids
            mask[index, : len(ids)] = 1
        return {"input_ids": input_ids, **self._beside(mask, [*map(len, rows)])}

    def _beside(self, mask: Array, lengths: list[int]) -> dict[str, Array]:
        """The graph's inputs beside the ids."""
        feeds = {"attention_mask": mask} if self._takes_mask else {}
        return feeds if self._rows is None else feeds | self._rows.of(lengths)


def _check_files(path: Path, manifest: Manifest) -> None:
    """Raise BundleError for a graph that reads a file which is not one of the bundle's."""
    try:
        foreign = external_files(path) - set(manifest.files)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not an ONNX graph ({one_line(error)}); export the bundle again") from error
    if foreign:
        raise BundleError(
            f"{path}: the graph reads {sorted(foreign)[0]!r}, which is not among the bundle's files; "
            "export the bundle again, with all weights in the graph"
        )


def _not_probabilities(values: Floats) -> InferenceError:
    return InferenceError(f"the graph returned {values.shape} values that are not probabilities")


def create_session(
    path: Path, *, threads: int = 1, device: Device = AUTO, max_tokens: int = 512
) -> onnxruntime.InferenceSession:
    """A session on a device. Raises BundleError when the graph cannot be loaded, or not there.

    `threads` is the intra-op pool. Idle threads do not spin: that would burn the core that the server needs.
    `max_tokens` is the most that the graph reads of a text.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS
    wanted = providers(device, onnxruntime.get_available_providers(), max_tokens=max_tokens)
    first = wanted[0][0]
    if first != CPU:
        onnxruntime.preload_dlls()  # CUDA's libraries, where they were installed as Python packages
    if first == TENSORRT and device.cache is not None:
        _make(device.cache)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises many classes with no common base
        raise BundleError(
            f"{path}: ONNX Runtime cannot load this graph ({one_line(error)}); {_REMEDIES[first]}"
        ) from error
    # What cannot be started is left out, with a line in a log at most.
    if session.get_providers()[0] != first:
        raise BundleError(f"{path}: ONNX Runtime could not start its {first}; {_REMEDIES[first]}")
    return session


def has_gpu() -> bool:
    """Whether graphs run on a GPU here, unless they are told otherwise."""
    return AUTO.among(onnxruntime.get_available_providers()).kind != "cpu"


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            f"{cache}: cannot be made ({error}); give TensorRT's cache a directory to write to"
        ) from error


def _execution(session: onnxruntime.InferenceSession, max_tokens: int, *, packed: bool) -> Execute:
    """How to run a session: bound to its GPU's memory, or on the CPU, and where it is packed, as directly as can be."""
    provider = session.get_providers()[0]
    if provider == CPU or packed:  # nothing is padded of a packed graph, so that few runs have the same shape
        return _direct(session)
    index = int(session.get_provider_options()[provider]["device_id"])
    return BoundRun(session, OUTPUTS, max_tokens=max_tokens, device="cuda", index=index)


def _direct(session: onnxruntime.InferenceSession) -> Execute:
    """`session.run` without its look through the graph's inputs, by way of Python, before every run.

    What is missing of the feeds, which are of one making here, the run itself says too.
    """
    inner = getattr(session, "_sess", None)  # not public: where it has gone, the run is the public one
    return partial(session.run, OUTPUTS) if inner is None else lambda feeds: inner.run(OUTPUTS, feeds, None)
