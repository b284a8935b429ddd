"""A portable graph takes ids and mask alone, has operators of the standard alone, and computes what its source does."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from distill.students.student import TOKENIZER
from export.bundle.format import FUSED, INT8, PLAIN
from export.graph.portable import make_portable
from export.graph.variants import load_variants, make_variants


@pytest.fixture
def portable(student, graphs, validation, tmp_path):
    """`portable(variant)`: classifiers of a student's graph and of the portable one made of it, and that one's path.

    Where there is nothing to fuse `fused` is `plain`.
    """
    config = getattr(student.network.module, "config", None)
    rows = student.encode(validation.texts)
    paths = make_variants(graphs[student.network.family], tmp_path, config, rows)
    student.tokenizer.save(str(tmp_path / TOKENIZER))

    def make(variant):
        source = paths.get(variant, paths[PLAIN])
        both = {"source": source, "portable": make_portable(source, tmp_path / "portable.onnx")}
        loaded = load_variants(both, tmp_path / TOKENIZER, student.max_tokens, len(student.labels))
        return loaded["source"], loaded["portable"], both["portable"]

    return make


@pytest.mark.parametrize("variant", [PLAIN, FUSED, INT8])
def test_it_answers_as_its_source_does_alone_and_padded(portable, student, validation, variant):
    source, made, path = portable(variant)
    assert not made.packed
    rows = [source.encode(text) for text in [*validation.texts[:10], "late"]]
    expected = np.stack([source.run([row])[0].logits for row in rows])
    np.testing.assert_allclose(np.stack([made.run([row])[0].logits for row in rows]), expected, atol=1e-3)
    np.testing.assert_allclose(np.stack([answer.logits for answer in made.run(rows)]), expected, atol=1e-3)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)


def test_a_runtime_that_knows_the_standard_alone_computes_the_same(portable):
    source, _, path = portable(FUSED)
    row = source.encode("my parcel is late")
    session = ReferenceEvaluator(str(path))
    assert session.input_names == ["input_ids", "attention_mask"]
    for padding in ([], [0, 0, 0]):
        ids = np.array([row.ids + padding])
        mask = np.array([[1] * len(row.ids) + padding])
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        np.testing.assert_allclose(logits[0], source.run([row])[0].logits, atol=1e-3)
