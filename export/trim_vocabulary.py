"""Trim a student's vocabulary to the tokens of its training texts, for a smaller table and a smaller tokenizer.

WordPiece takes the longest piece of a word that its vocabulary has, and dropping other pieces does not change which one
that is. So a text of known words whose tokens are all kept is split as before, and gets the same answer. A word with a
dropped token is spelt in smaller pieces, which the student reads less well; a gate limits what that costs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from distill.errors import DistillError
from distill.students.student import Student
from distill.students.trimmable import require_trimmable
from export.gates import Gate, agreement


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A student with `kept` of the `whole` vocabulary's tokens, and the gate that it must pass to be served."""

    student: Student
    kept: int
    whole: int
    gate: Gate


def trim_vocabulary(student: Student, pool: Sequence[str], texts: Sequence[str], least: float, name: str) -> Trimmed:
    """Trim the vocabulary of a student to the tokens of the texts of `pool`.

    Its gate is that on `texts`, of which the vocabulary knows nothing, it chooses as the whole student does for a share
    of at least `least`. Raises DistillError for a student whose tokenizer is not WordPiece, or who has no table of
    tokens. `name` is for messages.
    """
    _require_trimmable(student, name)
    kept = kept_tokens(student, pool)
    trimmed = _with_tokens(student, kept)
    kind = "trimmed vocabulary"
    gate = agreement(kind, student.logits(texts), trimmed.logits(texts), least, against="the whole one")
    return Trimmed(trimmed, len(kept), student.tokenizer.get_vocab_size(), gate)


def kept_tokens(student: Student, pool: Sequence[str]) -> list[int]:
    """Return, ascending, the ids of the tokens to keep.

    They are the tokens of the texts, those that are not split (such as `[CLS]`), every single character, and the rare
    pieces with a character that has no token of its own, which could not be spelt. Only next to such a piece can a
    known word become unknown, or the reverse. Ids up to that of the padding are kept, since models compare with it.
    """
    tokenizer, module = _untruncated(student.tokenizer), student.network.module
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    prefix: str = tokenizer.model.continuing_subword_prefix
    used = {token for encoding in tokenizer.encode_batch_fast(list(pool)) for token in encoding.ids}
    padding = max(module.pad_id, *(table.padding_idx or 0 for table in module.tables().values()))
    used |= {*range(padding + 1), *tokenizer.get_added_tokens_decoder()}
    used |= {number for token, number in vocabulary.items() if not _is_spelt(token, prefix, vocabulary)}
    if (unknown := vocabulary.get(tokenizer.model.unk_token)) is not None:
        used.add(unknown)
    return sorted(used)


def trimmed_tokenizer(tokenizer: Tokenizer, kept: Sequence[int]) -> Tokenizer:
    """Return a tokenizer with some of the tokens of a WordPiece one, numbered from 0 in the order of `kept`."""
    place = {old: new for new, old in enumerate(kept)}
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] = {token: place[number] for token, number in model["vocab"].items() if number in place}
    for added in content["added_tokens"]:
        added["id"] = place[added["id"]]
    if content.get("padding"):
        content["padding"]["pad_id"] = place[content["padding"]["pad_id"]]
    _renumber(content.get("post_processor"), place)
    return Tokenizer.from_str(json.dumps(content))


def _is_spelt(token: str, prefix: str, vocabulary: Collection[str]) -> bool:
    """Whether a token is longer than a character, and each of its characters is a token by itself, where it stands."""
    begins = not token.startswith(prefix) or token == prefix
    characters = token if begins else token[len(prefix) :]
    if len(characters) == 1:
        return False
    own = [character if begins and at == 0 else prefix + character for at, character in enumerate(characters)]
    return all(each in vocabulary for each in own)


def _renumber(processor: dict[str, Any] | None, place: dict[int, int]) -> None:
    """Number the tokens that a post-processor adds anew, in every form that has any."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, place)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [place[number] for number in special["ids"]]
    for end in ("sep", "cls"):
        if end in processor:
            processor[end][1] = place[processor[end][1]]


def _with_tokens(student: Student, kept: Sequence[int]) -> Student:
    """Return a student with some of its tokens; the given one is not changed."""
    network = deepcopy(student.network)
    module, rows = network.module, torch.tensor(kept)
    for name, table in module.tables().items():
        weights = table.weight.detach()[rows].clone()
        module.set_table(name, nn.Embedding.from_pretrained(weights, padding_idx=table.padding_idx))  # type: ignore[no-untyped-call]
    config = getattr(module, "config", None)
    if config is not None:
        config.vocab_size = len(kept)  # the exporter draws ids below it
    return replace(student, network=network, tokenizer=trimmed_tokenizer(student.tokenizer, kept))


def _untruncated(tokenizer: Tokenizer) -> Tokenizer:
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    return whole


def _require_trimmable(student: Student, name: str) -> None:
    if not student.network.module.tables():
        raise DistillError(
            f"{name}: export.trim_vocabulary: the family {student.network.family} has no table of tokens; "
            "remove the key"
        )
    try:
        require_trimmable(student.tokenizer)
    except DistillError as error:
        raise DistillError(f"{name}: {error}") from error
