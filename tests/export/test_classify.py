"""A whole file is classified: blank rows get no label, the target has the format of its ending, the source stays."""

from __future__ import annotations

import csv
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from distill.errors import DataError
from distill.sections import FileSource
from export.bundle.classifier import Classifier, InferenceError
from export.classify import COLUMNS, classify_file
from tests.support.tiny_bundle import build_cascade

UNKNOWN = ("answers", "answers.txt", "answers.json", "answers.csv.gz")
TEXTS = ("my invoice", "", 'parcel, "lost"\nin Köln', " \u200b ", "login " * 40)


@pytest.fixture
def source(tmp_path):
    """A CSV file of texts, two of them blank, with an id each."""
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("no", "text"), *((f"k{row}", text) for row, text in enumerate(TEXTS))])
    return FileSource(path=tmp_path / "texts.csv", id="no")


def read_back(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix in (".jsonl", ".ndjson"):
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    for row in rows:
        row["score"] = float(row["score"]) if row["score"] else None
        row["truncated"] = {"true": True, "false": False}[row["truncated"]]
    return rows


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".CSV"])
def test_the_target_has_the_format_of_its_ending(tiny_bundle, source, tmp_path, ending):
    target = tmp_path / f"answers{ending}"
    assert classify_file(tiny_bundle, source, target) == (5, 2, 0)
    classifier = Classifier.load(tiny_bundle)
    written = read_back(target.rename(tmp_path / f"answers{ending.lower()}"))
    assert len(written) == len(TEXTS)
    for number, (row, text) in enumerate(zip(written, TEXTS, strict=True)):
        assert tuple(row) == COLUMNS
        assert (row["id"], row["text"]) == (f"k{number}", text)
        if number in (1, 3):
            assert (row["label"], row["score"], row["truncated"]) == ("", None, False)
        else:
            answer = classifier.classify(text)
            assert row["label"] == tiny_bundle.manifest.labels[answer.best]
            assert row["score"] == pytest.approx(answer.score, abs=1e-6)
            assert row["truncated"] == (number == 4)


def test_missing_texts_of_other_formats_are_blank_too(tiny_bundle, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"no": 2}\n{"text": "my invoice"}\n')
    assert classify_file(tiny_bundle, FileSource(path=tmp_path / "a.jsonl"), tmp_path / "b.jsonl") == (3, 2, 0)
    pyarrow.parquet.write_table(pyarrow.table({"text": [None, "my invoice", "  "]}), tmp_path / "a.parquet")
    assert classify_file(tiny_bundle, FileSource(path=tmp_path / "a.parquet"), tmp_path / "b.jsonl") == (3, 2, 0)
    assert [row["id"] for row in read_back(tmp_path / "b.jsonl")] == ["row-0", "row-1", "row-2"]


def test_a_file_of_blank_rows_alone_is_written(tiny_bundle, tmp_path):
    (tmp_path / "a.csv").write_text("no,text\n1,\n2,\n")
    assert classify_file(tiny_bundle, FileSource(path=tmp_path / "a.csv"), tmp_path / "b.parquet") == (2, 2, 0)
    assert [row["label"] for row in read_back(tmp_path / "b.parquet")] == ["", ""]


@pytest.mark.parametrize("way", ["same", "relative", "dots", "symlink", "hard link", "symlinked folder"])
def test_the_source_is_never_overwritten(tiny_bundle, source, tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    target = {
        "same": source.path,
        "relative": source.path.relative_to(tmp_path),
        "dots": tmp_path / "folder" / ".." / "texts.csv",
        "symlink": tmp_path / "other.csv",
        "hard link": tmp_path / "hard.csv",
        "symlinked folder": tmp_path / "link" / "texts.csv",
    }[way]
    (tmp_path / "other.csv").symlink_to(source.path)
    os.link(source.path, tmp_path / "hard.csv")
    before = source.path.read_bytes()
    with pytest.raises(DataError, match="is the source itself, which would be lost; name another file to write"):
        classify_file(tiny_bundle, source, target)
    assert source.path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, r"unknown kind of file to write; end its name in one of \.csv, ") for name in UNKNOWN),
        ("folder.csv", r"folder\.csv: is a folder"),
    ],
)
def test_a_folder_and_a_target_of_an_unknown_kind_are_refused(tiny_bundle, source, tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=message):
        classify_file(tiny_bundle, source, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "texts.csv"]


def test_a_target_that_is_a_link_stays_one(tiny_bundle, source, tmp_path):
    (tmp_path / "kept.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "kept.csv")
    classify_file(tiny_bundle, source, tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read_back(tmp_path / "kept.csv")) == len(TEXTS)


def test_a_file_that_cannot_be_read_leaves_the_target_as_it_was(tiny_bundle, source, tmp_path):
    (tmp_path / "answers.csv").write_text("old")
    source.path.write_text("no,text\n1,a,b\n")
    with pytest.raises(DataError, match="line 2: expected 2 columns"):
        classify_file(tiny_bundle, source, tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == "old"


def test_a_text_that_the_graph_fails_on_is_named_by_its_row_and_not_repeated(tiny_bundle, tmp_path):
    (tmp_path / "a.csv").write_text("text\ninvoice\npoison canary\n")
    with pytest.raises(
        InferenceError, match=rf"{tmp_path / 'a.csv'}: row-\S+: the graph returned .*; remove the row"
    ) as failed:
        classify_file(tiny_bundle, FileSource(path=tmp_path / "a.csv"), tmp_path / "b.csv")
    assert "canary" not in str(failed.value)
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_cascade_names_the_stage_of_each_answer(tiny_bundle, source, tmp_path, ending):
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle, tiny_bundle], [0.85])
    classify_file(cascade, source, tmp_path / f"answers{ending}")
    written = read_back(tmp_path / f"answers{ending}")
    assert [tuple(row) for row in written] == [(*COLUMNS, "stage")] * len(TEXTS)
    assert [row["stage"] for row in written] == ["1-tiny", "", "1-tiny", "", "0-tiny"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_what_a_cascade_leaves_to_the_teacher_is_marked(tiny_bundle, tmp_path, ending):
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle, tiny_bundle], [0.8], defer=0.8)
    (tmp_path / "a.csv").write_text('text\ninvoice\n""\nmy invoice is late\n')
    target = tmp_path / f"b{ending}"
    assert classify_file(cascade, FileSource(path=tmp_path / "a.csv"), target) == (3, 1, 1)
    written = read_back(target)
    assert [tuple(row) for row in written] == [(*COLUMNS, "stage", "deferred")] * 3
    assert [row["stage"] for row in written] == ["0-tiny", "", "1-tiny"]
    assert [row["deferred"] in (True, "true") for row in written] == [False, False, True]
