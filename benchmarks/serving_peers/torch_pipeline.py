"""FastAPI and a transformers pipeline on PyTorch: the student as trained, in float32.

`AutoModelForSequenceClassification` does not know its mean pooling, so the model has a class of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.torch import load_file
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast, TextClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput


class Body(BaseModel):
    """One text."""

    text: str


class Answer(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class MeanPooled(PreTrainedModel):  # type: ignore[misc]
    """An encoder, mean pooling over its last layer, and a linear head."""

    _supports_sdpa = True  # as in the encoder

    def __init__(self, encoder: Any, head: dict[str, Any]) -> None:
        super().__init__(encoder.config)
        self.encoder = encoder
        self.head = torch.nn.Linear(head["weight"].shape[1], head["weight"].shape[0])
        self.head.load_state_dict(head)

    def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> SequenceClassifierOutput:
        """Return the logits of a batch."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return SequenceClassifierOutput(logits=self.head((states * mask).sum(1) / mask.sum(1)))


def load(student: Path) -> TextClassificationPipeline:
    """Load a pipeline from a student's folder."""
    card = json.loads((student / "student.json").read_text())
    labels = card["labels"]
    encoder = AutoModel.from_pretrained(student / "encoder", local_files_only=True)
    encoder.config.id2label = dict(enumerate(labels))
    encoder.config.label2id = {label: index for index, label in enumerate(labels)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(student / "tokenizer.json"), pad_token="[PAD]", model_max_length=card["max_tokens"]
    )
    model = MeanPooled(encoder, load_file(student / "head.safetensors")).eval()
    return TextClassificationPipeline(model=model, tokenizer=tokenizer)


def create_app(student: Path) -> FastAPI:
    """Return the app for a student's folder."""
    pipeline = load(student)
    app = FastAPI()

    @app.post("/classify")
    async def classify(body: Body) -> Answer:
        (found,) = pipeline([body.text], truncation=True)
        return Answer(label=found["label"], score=found["score"])

    return app


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    uvicorn.run(create_app(given.student), host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
