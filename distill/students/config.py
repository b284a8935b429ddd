"""Configurations of students, as the task file has them, one class per family."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from distill.sections import Optimisation, Section, added


class Loss(Section):
    """A loss on the soft labels, weighted 1 − `hard`, plus cross-entropy with the teacher's top label, `hard`.

    `kl` is the KL divergence at `temperature`; `mse` the squared error of centred logits, which has no temperature.
    """

    kind: Literal["kl", "mse"] = added("kl")
    temperature: float = Field(default=2.0, gt=0)
    hard: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _without_effect(self) -> Loss:
        fields = type(self).model_fields
        if self.kind == "mse" and self.temperature != fields["temperature"].default:
            raise ValueError("temperature: has no effect with `kind: mse`; leave it out, or take `kind: kl`")
        for name in ("kind", "temperature"):
            if self.hard == 1 and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name}: has no effect with `hard: 1`, which leaves no soft loss; leave it out")
        return self


class EmbeddingPhase(Section):
    """A first phase of `epochs`, in which the student's embedding is fitted to the teacher's, through a linear map.

    `learning_rate` is by default that of the student.
    """

    epochs: int = Field(default=5, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)


def _one_rate(optimisation: Optimisation) -> Optimisation:
    if optimisation.layer_decay != 1:
        raise ValueError("layer_decay: has no effect in this family, which learns at one rate; leave it out")
    return optimisation


OneRate = Annotated[Optimisation, AfterValidator(_one_rate)]
"""How a student of a family is trained whose parts cannot learn at different rates."""


Layers = Annotated[
    Annotated[Annotated[int, Field(ge=1)], Tag("count")] | Annotated[tuple[int, ...], Tag("indices")],
    Discriminator(lambda value: "indices" if isinstance(value, (list, tuple)) else "count"),
]
"""A number of layers, taken evenly, or the indices of those to take, in order."""


class EncoderStudent(Section):
    """Some layers of a pretrained encoder, mean pooling, and a linear head.

    Without `train_embeddings` the token embeddings stay as pretrained, so words that the pool lacks keep their meaning.
    """

    family: Literal["encoder"]
    model: str
    layers: Layers = 3
    train_embeddings: bool = True
    max_tokens: int = Field(default=128, ge=8)
    optimisation: Optimisation = Optimisation()
    loss: Loss = Loss()
    embedding_phase: EmbeddingPhase | None = added(None)


class DecoderStudent(Section):
    """A language model's last state under a linear head, trained by LoRA.

    Its adapters have this `rank`, and are scaled by alpha / rank.
    """

    family: Literal["decoder"]
    model: str
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    max_tokens: int = Field(default=256, ge=8)
    optimisation: OneRate = Optimisation(epochs=4)
    loss: Loss = Loss()
    embedding_phase: EmbeddingPhase | None = added(None)


class NgramsStudent(Section):
    """Hashed n-grams of 1 to `longest` tokens, `width` numbers for each of `buckets` hashes, and a linear head.

    Of `model` only the tokenizer is used.
    """

    family: Literal["ngrams"]
    model: str
    longest: int = Field(default=2, ge=1, le=5)
    buckets: int = Field(default=2**15, ge=16, le=2**24)
    width: int = Field(default=64, ge=2)
    max_tokens: int = Field(default=256, ge=8)
    optimisation: OneRate = Optimisation(epochs=12, batch_size=256, learning_rate=3e-2)
    loss: Loss = Loss()
    embedding_phase: EmbeddingPhase | None = added(None)


class StaticStudent(Section):
    """The encoder's token embeddings with learned token weights, and one hidden layer. No attention.

    The hidden layer reads the mean of the embeddings and, with `pairs`, the mean product of neighbouring ones.
    """

    family: Literal["static"]
    model: str
    hidden: int = Field(default=512, ge=8)
    pairs: bool = True
    max_tokens: int = Field(default=256, ge=8)
    optimisation: Optimisation = Optimisation(epochs=30, learning_rate=1e-3, patience=5)
    loss: Loss = Loss()
    embedding_phase: EmbeddingPhase | None = added(None)


StudentConfig = EncoderStudent | StaticStudent | NgramsStudent | DecoderStudent


def has_token_table(config: StudentConfig) -> bool:
    """Whether a student has vectors that are indexed by token; those of n-grams are indexed by hash."""
    return not isinstance(config, NgramsStudent)


def trains_embeddings(config: StudentConfig) -> bool:
    """Whether the token embeddings of a student are trained; LoRA leaves them as they are."""
    if isinstance(config, EncoderStudent):
        return config.train_embeddings
    return not isinstance(config, DecoderStudent)
