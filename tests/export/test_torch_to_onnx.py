"""A graph computes what the torch module does, for every family, batch size and length."""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from distill.students.padding import pad
from export.bundle.classifier import INPUTS, OUTPUTS
from export.bundle.session import create_session
from export.graph.quiet import quiet
from export.torch_to_onnx import export_onnx

CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="session")
def sessions(graphs):
    """An inference session for each family."""
    return {family: create_session(path) for family, path in graphs.items()}


def random_batch(sizes):
    """Rows of random ids, of these lengths, as ids and mask."""
    generator = np.random.default_rng(0)
    return pad([[2, *generator.integers(4, 50, size=size - 2).tolist(), 3] if size > 1 else [2] for size in sizes])


def ask(session, ids, mask):
    """A session's outputs by name."""
    values = session.run(OUTPUTS, dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
    return dict(zip(OUTPUTS, values, strict=True))


def compute(student, ids, mask):
    """The same by torch."""
    with torch.inference_mode():
        logits, embedding = student.network.module.eval()(ids, mask)
    return logits.numpy(), embedding.numpy()


@pytest.mark.parametrize("sizes", [[5], [1], [24], [2, 3], [7, 7, 7], [24, 1, 13, 2, 9], [3] * 17])
def test_a_graph_gives_what_torch_gives(student, sessions, sizes):
    ids, mask = random_batch(sizes)
    outputs = ask(sessions[student.network.family], ids, mask)
    logits, embedding = compute(student, ids, mask)
    np.testing.assert_allclose(outputs["logits"], logits, **CLOSE)
    np.testing.assert_allclose(outputs["embedding"], embedding, **CLOSE)
    assert outputs["logits"].shape == (len(sizes), len(student.labels))
    assert outputs["embedding"].ndim == 2


def test_probabilities_are_the_calibrated_softmax(student, sessions):
    assert student.temperature != 1
    outputs = ask(sessions[student.network.family], *random_batch([5, 9]))
    scaled = np.exp(outputs["logits"].astype(np.float64) / student.temperature)
    np.testing.assert_allclose(outputs["probabilities"], scaled / scaled.sum(axis=1, keepdims=True), **CLOSE)


def test_a_multi_label_student_gives_each_label_a_sigmoid_of_its_own(student, sessions, tmp_path):
    export_onnx(dataclasses.replace(student, multi_label=True), tmp_path / "model.onnx")
    outputs = ask(create_session(tmp_path / "model.onnx"), *random_batch([5, 9]))
    single = ask(sessions[student.network.family], *random_batch([5, 9]))
    np.testing.assert_allclose(outputs["logits"], single["logits"], **CLOSE)
    scaled = outputs["logits"].astype(np.float64) / student.temperature
    np.testing.assert_allclose(outputs["probabilities"], 1 / (1 + np.exp(-scaled)), **CLOSE)


def test_what_the_mask_hides_changes_nothing(student, sessions):
    session = sessions[student.network.family]
    ids, mask = random_batch([6])
    alone = ask(session, ids, mask)
    filler = torch.full((1, 5), 17)
    padded = ask(session, torch.cat([ids, filler], 1), torch.cat([mask, torch.zeros_like(filler)], 1))
    read = ask(session, torch.cat([ids, filler], 1), torch.cat([mask, torch.ones_like(filler)], 1))
    for name in OUTPUTS:
        np.testing.assert_allclose(padded[name], alone[name], **CLOSE)
        assert np.abs(read[name] - alone[name]).max() > 1e-2


def test_the_graph_declares_the_contract_of_every_bundle(student, sessions):
    session = sessions[student.network.family]
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    assert inputs == dict.fromkeys(INPUTS, ("tensor(int64)", ["batch", "tokens"]))
    assert [value.name for value in session.get_outputs()] == list(OUTPUTS)
    assert all(value.type == "tensor(float)" and value.shape[0] == "batch" for value in session.get_outputs())


def test_exporting_leaves_the_student_as_it_was_and_gives_the_same_graph_again(student, graphs, tmp_path):
    ids, mask = random_batch([9, 4])
    before = compute(student, ids, mask)
    export_onnx(student, tmp_path / "model.onnx")
    for value, expected in zip(compute(student, ids, mask), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert (tmp_path / "model.onnx").read_bytes() == graphs[student.network.family].read_bytes()


def test_a_graph_is_one_file_that_the_checker_accepts(graphs):
    for path in graphs.values():
        onnx.checker.check_model(str(path), full_check=True)
    assert {path.name for path in next(iter(graphs.values())).parent.iterdir()} == {
        path.name for path in graphs.values()
    }


def test_quiet_holds_back_advice_and_nothing_after(capsys, caplog):
    with quiet():
        sys.stdout.write("progress")
        warnings.warn("constant", stacklevel=1)
        logging.getLogger("somebody").warning("advice")
        logging.getLogger("somebody").error("trouble")
    assert caplog.messages == ["trouble"]
    sys.stdout.write("after")
    logging.getLogger("somebody").warning("after")
    assert caplog.messages == ["trouble", "after"]
    assert capsys.readouterr().out == "after"


def test_quiet_ends_with_an_error_too(caplog):
    with pytest.raises(OSError, match="full"), quiet():
        raise OSError("full")
    logging.getLogger("somebody").warning("after")
    assert caplog.messages == ["after"]
