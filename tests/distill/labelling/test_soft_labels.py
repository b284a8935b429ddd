"""Soft labels come back from disk as they went, and a file that is something else is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from distill import teachers
from distill.errors import DataError
from distill.labelling.soft_labels import SoftLabels
from distill.teachers.scaling import Scaling

SOFT = SoftLabels(
    ids=("a", "b", "ü"),
    texts=("one", "two\nlines", "drei €"),
    labels=("x", "y, z"),
    probabilities=np.array([[0.25, 0.75], [1.0, 0.0], [0.1, 0.9]], dtype=np.float32),
    methods=("local", "votes", "local"),
    covered=np.array([1.0, 0.5, 0.9]),
    tail=np.array([0.0, 0.25, 0.1]),
    tokens=np.array([3, 0, 12]),
    cost_usd=np.array([0.0, 1e-6, 0.25]),
    seconds=np.array([0.1, 0.2, 0.3]),
    teacher="local:big",
    teacher_version="abc",
)


def assert_same(one: SoftLabels, other: SoftLabels) -> None:
    for field in fields(SoftLabels):
        mine, yours = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == yours.dtype, field.name
            np.testing.assert_array_equal(mine, yours)
        else:
            assert mine == yours, field.name


def test_a_round_trip_changes_nothing(tmp_path):
    SOFT.write(tmp_path / "labels.parquet")
    assert_same(SoftLabels.read(tmp_path / "labels.parquet"), SOFT)


SCALINGS = (Scaling.of_temperature(2.5), Scaling((0.5, 1.0), (3.0, -1.0)))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_round_trip_keeps_what_the_teacher_said_beside_what_it_means(tmp_path, scaling):
    terms = ({"acknowledged": True, "reference": "https://example.org/§5"},)
    calibrated = replace(SOFT.calibrated(scaling), terms=terms)
    calibrated.write(tmp_path / "labels.parquet")
    assert_same(SoftLabels.read(tmp_path / "labels.parquet"), calibrated)
    table = pyarrow.parquet.read_table(tmp_path / "labels.parquet")
    np.testing.assert_array_equal(np.stack(table["raw"].to_pylist()), SOFT.probabilities)
    assert b"example.org" in table.schema.metadata[b"reflux.terms"]


def test_without_calibration_there_is_no_second_column(tmp_path):
    SOFT.write(tmp_path / "labels.parquet")
    assert "raw" not in pyarrow.parquet.read_table(tmp_path / "labels.parquet").column_names
    assert SOFT.raw is SOFT.scaling is None


def test_students_learn_from_what_is_calibrated():
    calibrated = SOFT.calibrated(SCALINGS[1])
    np.testing.assert_array_equal(calibrated.raw, SOFT.probabilities)
    np.testing.assert_array_equal(calibrated.probabilities, SCALINGS[1].apply(SOFT.probabilities))
    assert calibrated.hard.tolist() == [0, 0, 0] != SOFT.hard.tolist()


def test_another_calibration_starts_from_what_the_teacher_said():
    twice = SOFT.calibrated(SCALINGS[1]).calibrated(SCALINGS[0])
    assert_same(twice, SOFT.calibrated(SCALINGS[0]))


def test_a_slice_of_a_larger_array_is_written_right(tmp_path):
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    soft = replace(SOFT, probabilities=wide[:, 1:3])
    soft.write(tmp_path / "labels.parquet")
    np.testing.assert_array_equal(SoftLabels.read(tmp_path / "labels.parquet").probabilities, [[1, 2], [5, 6], [9, 10]])


def test_the_first_choice():
    assert SOFT.hard.tolist() == [1, 0, 1]
    assert len(SOFT) == 3


def test_rows_are_found_by_id():
    assert SOFT.rows_of(["ü", "a", "a"]) == [2, 0, 0]
    with pytest.raises(DataError, match="no row 'c'"):
        SOFT.rows_of(["a", "c"])


def half(path: Path) -> bytes:
    SOFT.write(path)
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"PAR1garbagePAR1", half])
def test_what_is_missing_garbage_or_half_a_file_is_refused(tmp_path, content):
    path = tmp_path / "labels.parquet"
    if content is not None:
        path.write_bytes(content(path) if callable(content) else content)
    with pytest.raises(DataError, match=r"labels\.parquet: not a file of soft labels .*run `reflux label`"):
        SoftLabels.read(path)


@pytest.mark.parametrize(("metadata", "found"), [(None, "None"), ({"reflux.schema": "1"}, "'1'")])
def test_another_schema_is_refused(tmp_path, metadata, found):
    table = pyarrow.table({"id": ["a"]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=f"soft labels of schema {found}, expected '2'"):
        SoftLabels.read(tmp_path / "labels.parquet")


def test_answers_cost_what_the_teacher_costs_now_and_paid_calls_what_was_paid():
    by_the_hour = SOFT.at_price_of(teachers.parse({"kind": "local", "model": "m", "usd_per_hour": 3600.0}))
    np.testing.assert_allclose(by_the_hour.cost_usd, SOFT.seconds)
    recorded = {"kind": "recorded", "logits": "a.npz", "recordings": [{"array": "a", "rows": {"path": "a.csv"}}]}
    assert set(SOFT.at_price_of(teachers.parse({**recorded, "usd_per_1000": 5.0})).cost_usd) == {0.005}
    assert SOFT.at_price_of(teachers.parse({"kind": "openai", "model": "m"})) is SOFT
