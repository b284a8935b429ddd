"""A bundle's graph on ONNX Runtime: tokenise, run, read. The one place that makes inference sessions.

Every text runs alone: dynamic quantisation scales activations over the whole batch, so a neighbour could change a
text's answer. The same code scores gates and gap reports and serves traffic, so what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from export.bundle import MODEL, TOKENIZER, Bundle, BundleError

Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities", "embedding")

onnxruntime.disable_telemetry_events()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One text's answer: `logits` and `probabilities` [K], `embedding` [d], all float32.

    `tokens` counts those the graph read, `truncated` says that the text had more.
    """

    probabilities: Floats
    logits: Floats
    embedding: Floats
    tokens: int
    truncated: bool


class InferenceError(Exception):
    """The graph gave no usable answer (it failed, or returned values that are not numbers)."""


class GraphTokenizer:
    """A tokenizer with its truncation set once, so that threads may share it."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a tokenizer ({error}); export the bundle again") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def encode(self, text: str) -> tuple[list[int], bool]:
        """The token ids that the graph will read, and whether the text had more."""
        encoding = self._tokenizer.encode(text)
        return encoding.ids, bool(encoding.overflowing)


class Classifier:
    """A graph with its tokenizer, ready to answer. Threads may share it."""

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: GraphTokenizer, classes: int) -> None:
        inputs = [value.name for value in session.get_inputs()]
        outputs = [value.name for value in session.get_outputs()]
        if not set(inputs) <= set(INPUTS) or "input_ids" not in inputs or not set(OUTPUTS) <= set(outputs):
            raise BundleError(f"the graph takes {inputs} and returns {outputs}, expected {INPUTS} and {OUTPUTS}")
        self._session = session
        self._tokenizer = tokenizer
        self._takes_mask = "attention_mask" in inputs
        self._classes = classes

    @classmethod
    def load(cls, bundle: Bundle, *, threads: int = 1) -> Classifier:
        """The classifier of a bundle. Raises BundleError when its graph or tokenizer cannot be loaded."""
        tokenizer = GraphTokenizer(bundle.path / TOKENIZER, bundle.manifest.max_tokens)
        session = create_session(bundle.path / MODEL, threads=threads)
        return cls(session, tokenizer, len(bundle.manifest.labels))

    def classify(self, text: str) -> Prediction:
        """Answer one text. Raises InferenceError when the graph fails or returns values that are not numbers."""
        ids, truncated = self._tokenizer.encode(text)
        input_ids = np.array([ids], dtype=np.int64)
        feeds = {"input_ids": input_ids}
        if self._takes_mask:
            feeds["attention_mask"] = np.ones_like(input_ids)
        try:
            logits, probabilities, embedding = self._session.run(OUTPUTS, feeds)
        except Exception as error:  # ONNX Runtime raises many classes with no common base
            raise InferenceError(f"the graph failed on {len(ids)} tokens: {error}") from error
        if probabilities.shape != (1, self._classes) or not np.isfinite(probabilities).all():
            raise InferenceError(f"the graph returned {probabilities.shape} values that are not probabilities")
        return Prediction(probabilities[0], logits[0], embedding[0], len(ids), truncated)

    def probabilities(self, texts: Sequence[str], *, track: Callable[[Iterable[str]], Iterable[str]] = iter) -> Floats:
        """Probabilities [N, K] of many texts, one run each. `track` may wrap the iteration in a progress bar."""
        rows = [self.classify(text).probabilities for text in track(texts)]
        return np.stack(rows) if rows else np.empty((0, self._classes), dtype=np.float32)


def create_session(path: Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the best provider this build has. Raises BundleError when the graph cannot be loaded.

    `threads` is the intra-op pool. Idle threads do not spin: that would burn the core that the server needs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises many classes with no common base
        raise BundleError(f"{path}: ONNX Runtime cannot load this graph ({error}); export the bundle again") from error
