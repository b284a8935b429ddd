"""A student of any family answers alike alone and in a batch, and comes back from disk as it was."""

import numpy as np
import pytest

from distill.errors import DistillError
from distill.students.student import load_student
from distill.training.distil import build_student

TEXTS = ["invoice", "my parcel is late and the courier has no address please help", "login password", "the"]
FILES = {
    "encoder": [
        "student.json",
        "tokenizer.json",
        "head.safetensors",
        "encoder/config.json",
        "encoder/model.safetensors",
    ],
    "static": ["static.safetensors"],
    "ngrams": ["ngrams.safetensors", "ngrams.json"],
}


@pytest.fixture
def untrained(config, labels, splits):
    return build_student(config, labels, splits[0])


def test_padding_changes_no_logits(untrained):
    together = untrained.logits(TEXTS)
    alone = np.concatenate([untrained.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({row.tobytes() for row in together}) == len(TEXTS)


def test_a_student_comes_back_from_disk_as_it_was(trained, family, tmp_path):
    student = trained.student
    student.save(tmp_path)
    loaded = load_student(tmp_path)
    for name in ("labels", "max_tokens", "temperature", "multi_label"):
        assert getattr(loaded, name) == getattr(student, name)
    assert loaded.network.family == family
    assert not loaded.network.module.training
    np.testing.assert_array_equal(loaded.logits(TEXTS), student.logits(TEXTS))


@pytest.mark.parametrize("damage", ["cut off", "gone"])
@pytest.mark.parametrize(
    ("family", "file"), [(family, file) for family, files in FILES.items() for file in files], indirect=["family"]
)
def test_a_damaged_student_is_refused(untrained, tmp_path, file, damage):
    untrained.save(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    if damage == "cut off":
        (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(DistillError, match=r"not a trained student .*run `reflux train` again"):
        load_student(tmp_path)
