"""A custom MLServer runtime for the folder of `reflux export --format hub`, through optimum and transformers."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline


class Runtime(MLModel):  # type: ignore[misc]
    """One model, in the folder that `uri` names."""

    async def load(self) -> bool:
        """Load the folder as a text-classification pipeline."""
        folder = self.settings.parameters.uri
        model = ORTModelForSequenceClassification.from_pretrained(folder)
        self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, truncation=True)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the probabilities [texts, labels] of the request's texts, in the order of `id2label`."""
        answers = self.classify(StringCodec.decode_input(payload.inputs[0]))
        scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
        rows = np.array([[row[label] for label in self.labels] for row in scores])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", rows)])
