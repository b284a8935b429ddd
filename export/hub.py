"""Write a bundle in the layout of the Hugging Face hub, which transformers.js, optimum and others load.

They read `logits` and compute the softmax (or, for a multi-label model, the sigmoids) themselves, so the graph gives
calibrated logits. `config.json` names an architecture because loaders require a known one; only the graph computes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distill.errors import DistillError
from export.bundle.atomic import replaced
from export.bundle.classifier import INPUTS, Floats, GraphTokenizer
from export.bundle.format import CARD, GOLDEN, MODEL, TOKENIZER, Bundle, BundleError, Manifest
from export.bundle.providers import Device
from export.bundle.session import create_session
from export.bundle.target import alone, require_new
from export.bundle.verify import TOLERANCE, bundle_errors
from export.graph.calibrated import calibrate_logits
from export.graph.portable import make_portable

GRAPH = "onnx/model.onnx"
README = "README.md"

_ARCHITECTURE = "bert"
"""An architecture that every loader knows, without position offsets and without inputs that our graphs lack."""

_ROLES = {
    "pad_token": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "eos_token": ("<|endoftext|>", "<|im_end|>"),
}
"""The usual names of special tokens, by role."""


def export_hub(bundle: Bundle, folder: Path) -> None:
    """Write a bundle into a new folder in the layout of the hub, whole or not at all.

    Raises DistillError when the folder is not empty or cannot be written, or the bundle is a cascade, and BundleError
    when the bundle's graph or tokenizer cannot be read, or the written graph does not give the golden answers.
    """
    require_new(folder)
    if stages := bundle.manifest.stages:
        raise DistillError(
            f"{bundle.path}: is a cascade, and the hub's layout has one graph; export one of its stages, such as "
            f"{bundle.path / stages[-1].folder}"
        )
    folder = folder.resolve()  # `.` has no name
    try:
        with alone(folder), replaced(folder) as staging:
            with bundle_errors(bundle.path):
                _write(bundle, staging)
                _check(bundle, staging)
            require_new(folder)
    except BundleError as error:
        if isinstance(error.__cause__, OSError):  # from writing: the whole bundle was read when it was opened
            raise DistillError(f"{folder}: cannot be written ({error.__cause__}); name another folder") from error
        raise


def _write(bundle: Bundle, folder: Path) -> None:
    manifest = bundle.manifest
    (folder / GRAPH).parent.mkdir()
    # A portable graph too: its operators may be ONNX Runtime's own.
    make_portable(bundle.path / (manifest.portable or MODEL), folder / GRAPH)
    calibrate_logits(folder / GRAPH, folder / GRAPH, manifest.temperature)
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    special = special_tokens(tokenizer)
    pad = tokenizer.token_to_id(special["pad_token"]) if "pad_token" in special else None
    shutil.copyfile(bundle.path / TOKENIZER, folder / TOKENIZER)
    _write_json(folder / "tokenizer_config.json", tokenizer_config(manifest, special))
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "config.json", config(manifest, pad))
    text = (bundle.path / CARD).read_text(encoding="utf-8") if CARD in manifest.files else f"# {manifest.name}\n"
    (folder / README).write_text(_readme(manifest, text), encoding="utf-8")


def config(manifest: Manifest, pad: int | None) -> dict[str, Any]:
    """Return the content of `config.json`. `pad` is the id of the padding token, if there is one."""
    known = {} if pad is None else {"pad_token_id": pad}
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": _ARCHITECTURE,
        "id2label": {str(place): label for place, label in enumerate(manifest.labels)},
        "label2id": {label: place for place, label in enumerate(manifest.labels)},
        "problem_type": "multi_label_classification" if manifest.multi_label else "single_label_classification",
        "max_position_embeddings": manifest.max_tokens,
        **known,
        # Without it transformers.js looks for a `model_quantized.onnx` in a browser.
        "transformers.js_config": {"dtype": "fp32"},
    }


def tokenizer_config(manifest: Manifest, special: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": manifest.max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "truncation_side": manifest.truncation_side,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **special,
    }


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens of a tokenizer by role. There is a `pad_token` unless it has no special token at all.

    Any token may pad, since the graph does not read padded positions. Only tokens that the tokenizer itself marks as
    special are named: naming an ordinary token here would make it special in other libraries.
    """
    found = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special]
    roles = {role: next((name for name in names if name in found), None) for role, names in _ROLES.items()}
    roles["pad_token"] = roles["pad_token"] or next(iter(found), None)
    return {role: name for role, name in roles.items() if name is not None}


def _check(bundle: Bundle, folder: Path) -> None:
    """Raise BundleError unless the written logits, activated as other libraries do, give the golden answers."""
    manifest = bundle.manifest
    tokenizer = GraphTokenizer(folder / TOKENIZER, manifest.max_tokens)
    session = create_session(folder / GRAPH, device=Device("cpu"), max_tokens=manifest.max_tokens)
    wanted = [value.name for value in session.get_inputs()]
    for number, row in enumerate(bundle.golden(), start=1):
        ids = np.array([tokenizer.encode(row.text).ids], dtype=np.int64)
        feeds = dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True))
        (logits,) = session.run(["logits"], {name: feeds[name] for name in wanted})
        worst = float(np.abs(_activated(logits[0], multi_label=manifest.multi_label) - row.probabilities).max())
        if not worst <= TOLERANCE:
            raise BundleError(
                f"{bundle.path / GOLDEN}: golden row {number}, {row.text[:60]!r}: a probability of the written graph "
                f"is off by {worst:.3f}, allowed are {TOLERANCE}; export the bundle again on a machine like this one"
            )


def _activated(logits: Floats, *, multi_label: bool) -> Floats:
    """Return probabilities [K] as other libraries compute them."""
    powers: Floats = np.exp(-logits if multi_label else logits - logits.max())
    total = powers + 1 if multi_label else powers.sum()
    return np.divide(1 if multi_label else powers, total, dtype=np.float32)


def _readme(manifest: Manifest, text: str) -> str:
    """Return the model card: the hub's metadata, the text of the bundle's own card, and how to load the model."""
    function = "sigmoid" if manifest.multi_label else "softmax"
    given = f" A text has every label from {manifest.threshold:g}." if manifest.multi_label else ""
    return f"""---
pipeline_tag: text-classification
tags:
- onnx
- transformers.js
---

{text.rstrip()}

## Use

`onnx/model.onnx` takes `input_ids` and `attention_mask` (int64 [batch, tokens]) and returns `logits` [batch,
{len(manifest.labels)}], whose {function} is the calibrated probabilities.{given}
`config.json` says `{_ARCHITECTURE}` since loaders ask for an architecture that they know; the graph alone computes.

```python
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

model = ORTModelForSequenceClassification.from_pretrained("FOLDER", subfolder="onnx")
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained("FOLDER"), top_k=None)
classify("a text", truncation=True)
```

(`pip install 'optimum-onnx[onnxruntime]'`; it needs transformers below 4.58.)

```js
import {{ pipeline }} from "@huggingface/transformers";

const classify = await pipeline("text-classification", "FOLDER");
await classify("a text", {{ top_k: null }});
```
"""


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
