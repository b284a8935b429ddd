"""A causal language model on this machine: token ids in, exact log probabilities out.

The common prefix of rows is read once, and its key-value cache is shared. Rows are padded on the right: attention is
causal, so positions and attention windows are the same as for each row alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedTokenizerFast

from distill.errors import DistillError
from distill.students.pretrained import WEIGHTS, locate
from distill.students.transformers_versions import cached_tokens, read_tokenizer

_NO_LIMIT = 10**9  # transformers reports an even larger number for a tokenizer without a limit


@dataclass(frozen=True, slots=True)
class Prefix:
    """The common prefix of rows, with its keys and values in each layer."""

    ids: tuple[int, ...]
    cache: DynamicCache


class LanguageModel:
    """A model with its tokenizer. `context` is the maximum number of tokens."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
        self.context = int(min(limit, _NO_LIMIT))

    @classmethod
    def load(cls, model: str, *, gguf_file: str | None = None, dtype: str = "auto", device_map: Any = None) -> Self:
        """Load a model. Without a `device_map` it goes to one device, an accelerator if available.

        Raises DistillError if that fails.
        """
        name = locate(model, gguf_file or WEIGHTS)
        source = {} if gguf_file is None else {"gguf_file": gguf_file}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **source) if source else read_tokenizer(name)
            network, loaded = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, device_map=device_map, output_loading_info=True, **source
            )
        except Exception as error:  # of many types: hub, files, shapes, missing packages
            raise DistillError(
                f"model {model}: cannot be loaded ({error}); give a folder, package:NAME or a hub id of a causal "
                "language model, and for a GGUF file its folder and `gguf_file`, with `pip install gguf`"
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise DistillError(f"model {model}: carries no weights for {missing[:3]}; use a causal language model")
        if gguf_file is not None:
            tokenizer = with_merges(tokenizer)
        return cls(network if device_map is not None else network.to(PartialState().device), tokenizer)

    @torch.inference_mode()
    def prefix(self, ids: Sequence[int]) -> Prefix:
        """Read the common prefix of rows. Raises DistillError for a model without a key-value cache."""
        cache = DynamicCache(config=self.model.config)
        self._read([ids], cache, [0])
        if cached_tokens(cache) != len(ids):
            raise DistillError(f"{type(self.model).__name__} has no key-value cache; use a transformer")
        return Prefix(tuple(ids), cache)

    @torch.inference_mode()
    def next_tokens(self, rows: Sequence[Sequence[int]], prefix: Prefix | None = None) -> npt.NDArray[np.float32]:
        """Log probabilities [N, V] of the token after each row of ids.

        With a `prefix`, every row must begin with it and be longer.
        """
        known = 0 if prefix is None else len(prefix.ids)
        cache = None if prefix is None else _shared(prefix.cache, len(rows))
        last = [len(row) - known - 1 for row in rows]
        kept = sorted(set(last))
        logits = self._read([row[known:] for row in rows], cache, kept)
        chosen = logits[torch.arange(len(rows)), [kept.index(position) for position in last]]
        scores: npt.NDArray[np.float32] = _log_softmax(chosen).cpu().numpy()
        return scores

    @torch.inference_mode()
    def continuations(
        self, row: Sequence[int], answers: Sequence[Sequence[int]], prefix: Prefix | None = None, *, batch_size: int = 8
    ) -> npt.NDArray[np.float64]:
        """Log probabilities [K] that each of K answers follows the row, which is read once for all of them."""
        cache = DynamicCache(config=self.model.config) if prefix is None else _shared(prefix.cache, 1)
        suffix = row if prefix is None else row[len(prefix.ids) :]
        first = _log_softmax(self._read([suffix], cache, [len(suffix) - 1])[0, 0])
        totals = [float(first[answer[0]]) for answer in answers]
        longer = [index for index, answer in enumerate(answers) if len(answer) > 1]
        for start in range(0, len(longer), batch_size):
            batch = longer[start : start + batch_size]
            rows = [answers[index][:-1] for index in batch]
            logits = self._read(rows, _shared(cache, len(rows)), range(max(map(len, rows))))
            for index, scores in zip(batch, logits, strict=True):
                rest = torch.tensor(answers[index][1:], device=scores.device)
                spoken = _log_softmax(scores[: len(rest)])
                totals[index] += float(spoken.gather(1, rest[:, None]).sum())
        return np.array(totals)

    def _read(self, rows: Sequence[Sequence[int]], cache: DynamicCache | None, kept: Sequence[int]) -> Tensor:
        """Logits [N, len(kept), V] at the positions `kept` of rows that follow the cache, which grows by the rows."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.model.device)
        positions = torch.tensor(kept)
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=positions)
        logits: Tensor = output.logits
        return logits if logits.shape[1] == len(kept) else logits[:, positions]  # older models ignore logits_to_keep


def with_merges(tokenizer: Any) -> Any:
    """Turn a unigram tokenizer whose scores are the ranks of merges into BPE; others are returned as they are.

    transformers reads GGUF files of Gemma's family as such unigram tokenizers, which split words otherwise than the
    model expects.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if parts["model"]["type"] != "Unigram":
        return tokenizer
    pieces = parts["model"]["vocab"]
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    ranked = sorted(
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    )
    parts["model"] = {
        "type": "BPE",
        "unk_token": tokenizer.unk_token,
        "fuse_unk": True,
        "byte_fallback": parts["model"]["byte_fallback"],
        "vocab": ids,
        "merges": [[left, right] for *_, left, right in ranked],
    }
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)), chat_template=tokenizer.chat_template, **special
    )


def _shared(cache: DynamicCache, count: int) -> DynamicCache:
    """A copy of a cache of one row, repeated for `count` rows; the original stays unchanged."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    own.batch_repeat_interleave(count)
    return own


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)
