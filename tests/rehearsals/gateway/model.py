"""Make a tiny chat model for llama.cpp: `python model.py FILE`. Needs the package gguf, and nothing of Reflux.

Its weights are random, but for a bias towards the letters A to E: which of them it answers with depends on the whole
prompt, and nearly all of the mass is on them. White space has next to none, so that JSON by a grammar is short.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

WIDTH, HEADS, HIDDEN, CONTEXT = 32, 4, 32, 2048
CONSTANT = 8.0
"""What the first dimension holds in every state, so that the output's weights for it are biases."""
BIASES = {"code": 4.0, "blank": -3.0}


def vocabulary() -> tuple[list[str], list[int]]:
    """Return the tokens and their types: control tokens, bytes, and ASCII characters with and without a space."""
    kinds = gguf.TokenType
    tokens = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}
    tokens |= {"<|im_start|>": kinds.CONTROL, "<|im_end|>": kinds.CONTROL}
    tokens |= {f"<0x{byte:02X}>": kinds.BYTE for byte in range(256)}
    characters = string.digits + string.ascii_letters + string.punctuation
    tokens |= {piece: kinds.NORMAL for one in characters for piece in (one, f"▁{one}")}
    tokens |= {"▁": kinds.NORMAL}
    return list(tokens), [int(kind) for kind in tokens.values()]


def biases(tokens: list[str]) -> npt.NDArray[np.float32]:
    """Return the output's weights for the dimension that is constant."""
    codes = {form for code in "ABCDE" for form in (code, f"▁{code}")}
    blank = {"▁", "<0x20>", "<0x09>", "<0x0A>", "<0x0D>"}
    kinds = ("code" if token in codes else "blank" if token in blank else "" for token in tokens)
    return np.array([BIASES.get(kind, 0.0) for kind in kinds], dtype=np.float32)


def write(path: Path, seed: int = 7) -> None:
    """Write the model."""
    tokens, kinds = vocabulary()
    draw = np.random.default_rng(seed)

    def weights(rows: int, scale: float) -> npt.NDArray[np.float32]:
        return draw.normal(0, scale, (rows, WIDTH)).astype(np.float32)

    embedding, output = weights(len(tokens), 1.0), weights(len(tokens), 0.15)
    embedding[:, 0] = CONSTANT
    output[:, 0] = biases(tokens)
    model = gguf.GGUFWriter(path, "llama")
    model.add_name("tiny")
    model.add_context_length(CONTEXT)
    model.add_embedding_length(WIDTH)
    model.add_block_count(1)
    model.add_feed_forward_length(HIDDEN)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_vocab_size(len(tokens))
    model.add_tokenizer_model("llama")
    model.add_tokenizer_pre("default")
    model.add_token_list(tokens)
    model.add_token_types(kinds)
    model.add_token_scores([-float(index) for index in range(len(tokens))])
    model.add_bos_token_id(tokens.index("<s>"))
    model.add_eos_token_id(tokens.index("<|im_end|>"))
    model.add_unk_token_id(tokens.index("<unk>"))
    model.add_tensor("token_embd.weight", embedding)
    model.add_tensor("output.weight", output)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        model.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        matrix = weights(WIDTH, 0.3)
        if name in ("attn_output", "ffn_down"):
            matrix[0] = 0.0  # what they add leaves the first dimension as it is
        model.add_tensor(f"blk.0.{name}.weight", matrix)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
