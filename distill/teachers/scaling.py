"""Calibrates a teacher's probabilities by temperature or vector scaling (Guo et al. 2017).

`distill.evaluation.calibration` fits the parameters on gold labels. They are stored with the soft labels and in the
bundle, where a teacher's answers are compared with a student's, so this file needs only numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from distill.teachers.errors import TeacherError

ScalingMethod = Literal["temperature", "vector"]

FLOOR = 1e-9
"""Probabilities below this are raised to it: such small values are rounding errors."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """softmax(scale · log p + bias). Vector scaling has K scales and K biases, in the order of the labels.

    A temperature T is the single scale 1 / T without bias: it changes the confidence, never the order of labels.
    """

    scale: tuple[float, ...]
    bias: tuple[float, ...] = (0.0,)

    @classmethod
    def of_temperature(cls, temperature: float) -> Self:
        """Scaling by a temperature."""
        return cls((1 / temperature,))

    @property
    def method(self) -> ScalingMethod:
        """The name of the method."""
        return "temperature" if len(self.scale) == 1 else "vector"

    def apply(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Calibrate probabilities [..., K]: float32 of the same shape, with sums of 1."""
        logs = log_probabilities(probabilities)
        scores = logs * np.array(self.scale) + np.array(self.bias)
        exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result: npt.NDArray[np.float32] = (exponent / exponent.sum(axis=-1, keepdims=True)).astype(np.float32)
        return result

    def as_dict(self) -> dict[str, Any]:
        """The parameters as JSON values, for `from_dict`."""
        if self.method == "temperature":
            return {"method": "temperature", "temperature": 1 / self.scale[0]}
        return {"method": "vector", "scale": list(self.scale), "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: int) -> Self:
        """Read the output of `as_dict` for K = `classes` labels. Raises TeacherError for anything else."""
        scale: tuple[float, ...]
        bias: tuple[float, ...]
        try:
            if values["method"] == "temperature":
                scale, bias = (1 / float(values["temperature"]),), (0.0,)
            else:
                scale, bias = (tuple(map(float, values[name])) for name in ("scale", "bias"))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise TeacherError(
                f"the teacher's calibration cannot be read ({error!r}); export the bundle again"
            ) from error
        fits = values["method"] == "temperature" or len(scale) == len(bias) == classes
        if not fits or not all(map(math.isfinite, scale + bias)) or min(scale) <= 0:
            raise TeacherError(
                f"the teacher's calibration does not fit {classes} labels: expected a positive, finite scale, and a "
                "finite bias, for each; export the bundle again"
            )
        return cls(scale, bias)


def log_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Natural logarithms of the same shape; finite, since probabilities are at least 1e-9."""
    logs: npt.NDArray[np.float64] = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR))
    return logs
