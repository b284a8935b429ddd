"""What differs between transformers 4.57 and 5, which are both supported.

All other code calls only what both have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

FIVE = int(transformers.__version__.partition(".")[0]) >= 5
"""Whether this is version 5 of transformers."""

_TOKENIZER_FILE = "tokenizer.json"
_ANY_TOKENIZER = "TokenizersBackend"
"""The class that version 5 names in `tokenizer_config.json` where `tokenizer.json` says everything."""


def read_tokenizer(name: str) -> Any:
    """Read the fast tokenizer of a model, as its `tokenizer.json` describes it where there is one.

    Raises many kinds of errors, OSError if the model has no file of a tokenizer.
    """
    return _read_by_five(name) if FIVE else _read_by_four(name)


def set_traceable_attention(model: Any) -> None:
    """Set the attention of a model whose traced graph ONNX Runtime fuses.

    In version 5 it is `eager`; before it is what a model is loaded with, which is `sdpa` for every architecture that
    ONNX Runtime fuses.
    """
    if FIVE:
        model.set_attn_implementation("eager")


def cached_tokens(cache: Any) -> int:
    """Return how many tokens have their keys and values in a cache; 0 for a model that has none, as Mamba."""
    try:
        length: int = cache.get_seq_length()
    except ValueError:  # version 5, if no layer has attention
        return 0
    return length


def mismatched_weights(loading_info: Mapping[str, Any]) -> list[str]:
    """Return the names of weights whose shapes differ from the model's. Version 5 gives their shapes with them."""
    return sorted(each if isinstance(each, str) else each[0] for each in loading_info["mismatched_keys"])


def _read_by_five(name: str) -> Any:
    """Read a tokenizer with version 5.

    Many classes of version 5 build a tokenizer of their own form around the vocabulary, and ignore the normaliser, the
    pre-tokeniser and the special tokens in `tokenizer.json`; without any file, they have an empty vocabulary.
    """
    found = AutoTokenizer.from_pretrained(name)
    path = _path(name, _TOKENIZER_FILE)
    if path is None:
        files = set(type(found).vocab_files_names.values())
        if all(_path(name, file) is None for file in files):
            raise OSError(f"none of {', '.join(sorted(files))}")
        return found
    core = Tokenizer.from_file(path)
    special = {
        role: token for role, token in found.special_tokens_map.items() if core.token_to_id(str(token)) is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        chat_template=found.chat_template,
        model_input_names=found.model_input_names,
        model_max_length=found.model_max_length,
        name_or_path=name,
        padding_side=found.padding_side,
        truncation_side=found.truncation_side,
        **special,
    )


def _read_by_four(name: str) -> Any:
    """Read a tokenizer with version 4, also one that version 5 saved."""
    config = get_tokenizer_config(name)
    extra = config.get("extra_special_tokens")
    # Version 4 expects names here, and has another key for a list.
    options = {"extra_special_tokens": {}, "additional_special_tokens": extra} if isinstance(extra, list) else {}
    reader = PreTrainedTokenizerFast if config.get("tokenizer_class") == _ANY_TOKENIZER else AutoTokenizer
    return reader.from_pretrained(name, **options)


def _path(name: str, file: str) -> str | None:
    """Return the path of a file of a model, a folder's or a downloaded one; None if there is none."""
    try:
        path: str | None = cached_file(name, file)
    except OSError:
        return None
    return path
