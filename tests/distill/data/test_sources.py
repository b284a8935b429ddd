"""Rows come out of files as they went in, and a row that cannot be used says where it stands."""

from __future__ import annotations

import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from distill.data import tickets
from distill.data.sources import read
from distill.errors import DataError
from distill.sections import FileSource, TicketSource


def source(path, content=None, **columns):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileSource(path=path, **columns)


def refusal(given) -> str:
    with pytest.raises(DataError) as caught:
        read(given, "train")
    message = str(caught.value)
    assert message.startswith(str(given.path))
    return message.removeprefix(str(given.path))


# CSV


def test_csv_rows_have_numbers_for_ids_and_no_gold_unless_asked(tmp_path):
    rows = read(source(tmp_path / "a.csv", "text,label\nhello,x\nworld,y\n"), "train")
    assert (rows.ids, rows.texts, rows.gold) == (("train-0", "train-1"), ("hello", "world"), (None, None))


def test_csv_columns_are_named_by_the_source(tmp_path):
    given = source(tmp_path / "a.csv", "no,body,kind\n7,hello,x\n8,world,\n", text="body", label="kind", id="no")
    rows = read(given, "train")
    assert (rows.ids, rows.texts, rows.gold) == (("7", "8"), ("hello", "world"), ("x", None))


def test_csv_fields_may_hold_quotes_commas_and_newlines(tmp_path):
    rows = read(source(tmp_path / "a.csv", 'text\n"say ""hi"", please"\n"two\nlines"\n" spaced "\n'), "train")
    assert rows.texts == ('say "hi", please', "two\nlines", " spaced ")


@pytest.mark.parametrize("content", ["\ufefftext,label\nhello,x\n", "text,label\r\nhello,x\r\n", "text,label\nhello,x"])
def test_csv_of_other_programs_is_read(tmp_path, content):
    assert read(source(tmp_path / "a.csv", content), "train").texts == ("hello",)


def test_csv_with_a_column_without_a_name_is_read(tmp_path):
    rows = read(source(tmp_path / "a.csv", ",text,label\n0,hello,x\n1,world,y\n", label="label"), "train")
    assert (rows.texts, rows.gold) == (("hello", "world"), ("x", "y"))


def test_csv_lines_that_are_blank_are_no_rows(tmp_path):
    assert read(source(tmp_path / "a.csv", "text\nhello\n\nworld\n"), "train").texts == ("hello", "world")


@pytest.mark.parametrize("row", ["one,two,three", "one,two,"])
def test_csv_rows_that_are_too_long_say_where(tmp_path, row):
    message = refusal(source(tmp_path / "a.csv", f"text,label\nfine,x\n{row}\n"))
    assert message == ", line 3: expected 2 columns; quote the text"


def test_csv_rows_that_are_too_short_say_where(tmp_path):
    assert refusal(source(tmp_path / "a.csv", "text,label\nfine,x\nshort\n")) == (
        ", line 3: expected 2 columns; quote the text"
    )


def test_csv_with_an_open_quote_is_refused(tmp_path):
    assert ": not CSV (" in refusal(source(tmp_path / "a.csv", 'text,label\n"never closed,x\n'))


def test_a_column_that_is_not_there_names_those_that_are(tmp_path):
    message = refusal(source(tmp_path / "a.csv", "body,kind\nhello,x\n"))
    assert message == ", line 2: no column 'text'; there are 'body', 'kind'"
    assert "no column 'gold'" in refusal(source(tmp_path / "a.csv", text="body", label="gold"))
    assert "no column 'no'" in refusal(source(tmp_path / "a.csv", text="body", id="no"))


@pytest.mark.parametrize("text", ["", "   ", "\t"])
def test_an_empty_text_says_where(tmp_path, text):
    message = refusal(source(tmp_path / "a.csv", f'text,label\nhello,x\n"{text}",y\n'))
    assert message == ", line 3: the text (column 'text') is empty; remove the row"


def test_labels_are_stripped(tmp_path):
    rows = read(source(tmp_path / "a.csv", "text,label\na, billing \nb,  \n", label="label"), "train")
    assert rows.gold == ("billing", None)


def test_an_id_given_twice_is_refused(tmp_path):
    message = refusal(source(tmp_path / "a.csv", "id,text\n1,a\n2,b\n1,c\n", id="id"))
    assert message == ": the id '1' (column 'id') is given twice; ids must differ"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_what_is_not_utf8_is_refused(tmp_path, name):
    content = "text\ncafé\n" if name == "a.csv" else '{"text": "café"}\n'
    message = refusal(source(tmp_path / name, content.encode("latin-1")))
    assert message.startswith(": not UTF-8 (")
    assert message.endswith("convert the file to UTF-8")


# JSONL


def test_jsonl_rows_and_blank_lines(tmp_path):
    lines = [json.dumps({"text": "héllo\u2028there", "label": 3}), "", "  ", json.dumps({"text": "b", "label": None})]
    rows = read(source(tmp_path / "a.jsonl", "\n".join(lines), label="label"), "pool")
    assert (rows.ids, rows.texts, rows.gold) == (("pool-0", "pool-1"), ("héllo\u2028there", "b"), ("3", None))


def test_jsonl_may_begin_with_a_byte_order_mark(tmp_path):
    assert read(source(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n'), "train").texts == ("a",)


@pytest.mark.parametrize("line", ["{", "hello", "{'text': 'a'}"])
def test_jsonl_that_is_not_json_says_where(tmp_path, line):
    message = refusal(source(tmp_path / "a.jsonl", f'{{"text": "a"}}\n\n{line}\n'))
    assert message.startswith(", line 3: not JSON (")


@pytest.mark.parametrize(("line", "kind"), [("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("3", "int")])
def test_jsonl_that_is_no_object_says_where(tmp_path, line, kind):
    message = refusal(source(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{line}\n'))
    assert message == f", line 2: expected an object, got {kind}"


def test_jsonl_with_an_empty_or_missing_text_says_where(tmp_path):
    assert refusal(source(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": null}\n')).startswith(", line 2: the text")
    assert refusal(source(tmp_path / "a.jsonl", '{"text": "a"}\n{"body": "b"}\n')) == (
        ", line 2: no column 'text'; there are 'body'"
    )


@pytest.mark.parametrize("value", [["a", "b"], {"de": "a"}])
def test_a_text_that_is_a_list_or_an_object_says_where(tmp_path, value):
    message = refusal(source(tmp_path / "a.jsonl", json.dumps({"text": value})))
    assert message.startswith(", line 1: expected a text in column 'text', got ")


def test_a_text_that_is_no_unicode_says_where(tmp_path):
    message = refusal(source(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "half an emoji \\ud83d"}\n'))
    assert message.startswith(", line 2: column 'text' holds half a character")


# Parquet


def test_parquet_rows(tmp_path):
    table = pyarrow.table({"no": [1, 2], "text": ["a", "b\nc"], "label": ["x", None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = read(source(tmp_path / "a.parquet", label="label", id="no"), "train")
    assert (rows.ids, rows.texts, rows.gold) == (("1", "2"), ("a", "b\nc"), ("x", None))


def test_parquet_in_several_batches_keeps_the_order(tmp_path):
    texts = [f"text {number}" for number in range(5000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    assert read(source(tmp_path / "a.parquet"), "train").texts == tuple(texts)


def test_parquet_with_an_empty_text_says_where(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), tmp_path / "a.parquet")
    assert refusal(source(tmp_path / "a.parquet")).startswith(", row 1: the text")


@pytest.mark.parametrize("content", [b"", b"text\nhello\n", b"PAR1" * 10])
def test_what_is_not_parquet_is_refused(tmp_path, content):
    assert refusal(source(tmp_path / "a.parquet", content)).startswith(": not Parquet (")


def test_parquet_that_is_cut_off_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["some text"] * 500}), tmp_path / "a.parquet")
    os.truncate(tmp_path / "a.parquet", (tmp_path / "a.parquet").stat().st_size - 20)
    refusal(source(tmp_path / "a.parquet"))


# Any file


@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv.gz", "a.json"])
def test_an_unknown_ending_lists_the_known_ones(tmp_path, name):
    assert refusal(source(tmp_path / name, "text\n")) == (
        ": unknown kind of file; expected one of .csv, .jsonl, .parquet"
    )


def test_an_ending_may_be_in_capitals(tmp_path):
    assert read(source(tmp_path / "A.CSV", "text\nhello\n"), "train").texts == ("hello",)


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
def test_a_missing_file_says_so(tmp_path, name):
    message = refusal(source(tmp_path / name))
    assert message.startswith(": cannot be read (")
    assert message.endswith("correct the path")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", ""), ("a.csv", "text,label\n"), ("a.jsonl", ""), ("a.jsonl", "\n")]
)
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    assert refusal(source(tmp_path / name, content)) == ": no rows"


def test_parquet_without_rows_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert refusal(source(tmp_path / "a.parquet")) == ": no rows"


# The support desk


def test_tickets_are_drawn_with_their_seed():
    rows = read(TicketSource(tickets=12, seed=3), "test")
    drawn = tickets.generate(12, 3)
    assert rows.ids == tuple(f"test-{number}" for number in range(12))
    assert rows.texts == tuple(ticket.text for ticket in drawn)
    assert rows.gold == tuple(ticket.label for ticket in drawn)
    assert read(TicketSource(tickets=12, seed=4), "test").texts != rows.texts
