"""A distilled student is trained further on gold labels under the conditions in which it was distilled."""

from __future__ import annotations

import pytest
from torch import nn

from distill.students.config import DecoderStudent, EncoderStudent, StaticStudent
from distill.training import comparisons, distil

OPTIMISATION = {"epochs": 1}


class Seen(Exception):  # noqa: N818
    """A module that is about to be trained."""


@pytest.fixture(params=["encoder", "decoder", "static"])
def config(request, tiny_encoder, tiny_causal):
    given = {"family": request.param, "max_tokens": 32, "optimisation": OPTIMISATION}
    if request.param == "encoder":
        return EncoderStudent(model=str(tiny_encoder), layers=1, **given)
    if request.param == "static":
        return StaticStudent(model=str(tiny_encoder), hidden=8, **given)
    pytest.importorskip("peft", reason="the extra `lora`")
    return DecoderStudent(model=str(tiny_causal("gpt2")), **given)


def test_the_same_weights_learn_with_the_same_dropout(config, monkeypatch, labels, soft_for, splits, tmp_path):
    learn, choose, _ = splits
    soft = soft_for(learn, choose)
    distil.build_student(config, labels, learn).save(tmp_path)

    def see(module, *_):
        raise Seen(
            {name for name, weights in module.named_parameters() if weights.requires_grad},
            {name: part.p for name, part in module.named_modules() if isinstance(part, nn.Dropout)},
        )

    for part in (distil, comparisons):
        monkeypatch.setattr(part, "train", see)
    with pytest.raises(Seen) as distilled:
        distil.distil(config, soft, learn, choose, "training")
    with pytest.raises(Seen) as further:
        comparisons.train_on_people(tmp_path, config, soft, learn, choose, "training")
    assert further.value.args == distilled.value.args
