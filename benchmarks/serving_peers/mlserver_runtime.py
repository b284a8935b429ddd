"""A custom MLServer runtime for the student; `mlserver start FOLDER` imports it by its name in model-settings.json."""

from __future__ import annotations

from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_student import Student


class Runtime(MLModel):  # type: ignore[misc]
    """One model. With MLServer's batching, a request has several texts."""

    async def load(self) -> bool:
        """Load the student."""
        self.student = Student(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the labels of the request's texts."""
        texts = StringCodec.decode_input(payload.inputs[0])
        labels = [label for label, _ in self.student.classify(texts)]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("label", labels, use_bytes=False)]
        )
