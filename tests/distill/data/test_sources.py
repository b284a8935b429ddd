"""Rows come out of files as they went in, and a row that cannot be used says where it stands."""

from __future__ import annotations

import json
import os
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from distill.data.sources import delimiter_found, read, source_digest
from distill.data.support_desk import tickets
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


@pytest.mark.parametrize(("row", "count"), [("one,two,three", 3), ("one,two,", 3), ("short", 1)])
def test_csv_rows_that_are_too_long_or_too_short_say_where(tmp_path, row, count):
    message = refusal(source(tmp_path / "a.csv", f'text,label\n"fi\nne",x\n{row}\n'))
    remedy = "quote the field that holds it, or give another `delimiter`"
    assert message == f", line 4: expected 2 columns, got {count} with the delimiter ','; {remedy}"


def test_csv_with_an_open_quote_names_the_line_where_its_row_begins(tmp_path):
    message = refusal(source(tmp_path / "a.csv", 'text,label\nfine,x\n"never closed,x\nmore,y\n'))
    assert message.startswith(", line 3: not CSV (unexpected end of data)")


def test_csv_fields_may_be_longer_than_the_csv_module_allows_by_default(tmp_path):
    text = "word " * 100_000
    assert read(source(tmp_path / "a.csv", f"text\n{text}\n"), "train").texts == (text,)


@pytest.mark.parametrize("header", ["text, label ", "\ufefftext,label", "\ufeff\ufefftext,label"])
def test_spaces_around_the_name_of_a_column_do_not_count(tmp_path, header):
    rows = read(source(tmp_path / "a.csv", f"{header}\na,x\n", label="label"), "train")
    assert (rows.texts, rows.gold) == (("a",), ("x",))


def test_a_column_is_named_exactly_where_spaces_tell_two_apart(tmp_path):
    given = source(tmp_path / "a.csv", "text, text\na,b\n")
    assert read(given, "train").texts == ("a",)
    assert read(given.model_copy(update={"text": " text"}), "train").texts == ("b",)


@pytest.mark.parametrize("header", ["text,text,label", "text ,text\t,label"])
def test_two_columns_of_one_name_are_refused(tmp_path, header):
    message = refusal(source(tmp_path / "a.csv", f"{header}\na,b,x\n"))
    assert message == ": two columns are named 'text'; rename or remove one"


def test_two_columns_of_one_name_that_are_not_read_do_not_matter(tmp_path):
    assert read(source(tmp_path / "a.csv", "note,text,note\n1,a,2\n"), "train").texts == ("a",)


# Delimiters

SEPARATED = "text{0}label\nfirst, of all{0}x\n'second'{0}y\n"


@pytest.mark.parametrize(
    ("name", "character"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", ";"), ("A.CSV", ";")]
)
def test_a_delimiter_that_is_not_the_usual_one_is_found_and_said(tmp_path, name, character):
    given = source(tmp_path / name, SEPARATED.format(character), label="label")
    rows = read(given, "train")
    assert (rows.texts, rows.gold) == (("first, of all", "'second'"), ("x", "y"))
    assert delimiter_found(given) == f"{given.path}: read with the delimiter {character!r}"


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.csv", "text\none; two\tthree | four\n", ("one; two\tthree | four",)),
        ("a.csv", "text,a;b;c;d\none,two\n", ("one",)),
        ("a.csv", "a;b\tc,text\n1,2\n", ("2",)),
        ("a.tsv", "text\tlabel\none, two; three\tx\n", ("one, two; three",)),
        ("a.tsv", "text\none, two; three\n", ("one, two; three",)),
    ],
)
def test_the_usual_delimiter_is_taken_where_it_will_do(tmp_path, name, content, texts):
    given = source(tmp_path / name, content)
    assert read(given, "train").texts == texts
    assert delimiter_found(given) is None


@pytest.mark.parametrize(("key", "character"), [(";", ";"), ("tab", "\t"), ("\\t", "\t"), ("~", "~"), ("§", "§")])
def test_a_delimiter_may_be_given(tmp_path, key, character):
    given = source(tmp_path / "a.csv", SEPARATED.format(character), label="label", delimiter=key)
    assert read(given, "train").texts == ("first, of all", "'second'")
    assert delimiter_found(given) is None


def test_a_delimiter_that_is_given_wins_over_what_would_be_found(tmp_path):
    content = "text,a;text\none,two;three\n"
    assert read(source(tmp_path / "a.csv", content), "train").texts == ("one",)
    assert read(source(tmp_path / "a.csv", content, delimiter=";"), "train").texts == ("three",)


@pytest.mark.parametrize("key", ["", ";;", "a", '"', "\n", "comma"])
def test_a_delimiter_is_one_character(tmp_path, key):
    with pytest.raises(ValidationError, match="expected one character"):
        FileSource(path=tmp_path / "a.csv", delimiter=key)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_delimiter_is_for_csv_alone(tmp_path, name):
    message = refusal(source(tmp_path / name, '{"text": "a"}', delimiter=";"))
    assert message.endswith(" file has no delimiter; leave `delimiter` out")


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n'])
@pytest.mark.parametrize("key", [None, ";"])
def test_a_first_line_that_tells_excel_the_delimiter_is_followed(tmp_path, first, key):
    given = source(tmp_path / "a.csv", f"{first}text;label\na,b;x\nc\n", delimiter=key)
    assert refusal(given).startswith(", line 4: expected 2 columns, got 1 with the delimiter ';'")
    assert read(source(tmp_path / "a.csv", f"{first}text;label\na,b;x\n", delimiter=key), "train").texts == ("a,b",)


@pytest.mark.parametrize(
    ("content", "texts", "quotes"),
    [
        ('text\tlabel\n"hi"\tx\n', ("hi",), True),
        ('text\tlabel\n"two\nlines"\tx\n"a\tb"\ty\n', ("two\nlines", "a\tb"), True),
        ('text\tlabel\n5" of rain\tx\n', ('5" of rain',), True),
        ('text\tlabel\n"hi" she said\tx\nbye\ty\n', ('"hi" she said', "bye"), False),
        ('text\tlabel\n"so it begins\tx\nand ends"\ty\n', ('"so it begins', 'and ends"'), False),
        ('text\tlabel\n"never closed\tx\n', ('"never closed',), False),
    ],
)
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_quotes_between_tabs_mean_what_all_rows_agree_with(tmp_path, name, content, texts, quotes):
    given = source(tmp_path / name, content, label="label")
    assert read(given, "train").texts == texts
    assert ("quotes taken literally" in (delimiter_found(given) or "")) is not quotes


def test_rows_between_tabs_that_fit_neither_way_say_where(tmp_path):
    message = refusal(source(tmp_path / "a.tsv", 'text\tlabel\n"hi" she said\tx\ty\n'))
    assert message.startswith(", line 2: not CSV (")


def test_columns_that_are_not_there_are_listed_by_the_delimiter_that_tells_them_apart(tmp_path):
    message = refusal(source(tmp_path / "a.csv", "body;kind;or so\nhello, you;x;y\n"))
    assert message == ", line 1: no column 'text'; there are 'body', 'kind', 'or so'"


def test_a_column_that_is_not_there_names_those_that_are(tmp_path):
    message = refusal(source(tmp_path / "a.csv", "body,kind\nhello,x\n"))
    assert message == ", line 1: no column 'text'; there are 'body', 'kind'"
    assert "no column 'gold'" in refusal(source(tmp_path / "a.csv", text="body", label="gold"))
    assert "no column 'no'" in refusal(source(tmp_path / "a.csv", text="body", id="no"))


@pytest.mark.parametrize("text", ["", "   ", "\t", "\xa0", "\u200b", " \ufeff\u2060 "])
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
    line = 2 if name == "a.csv" else 1
    assert message == f", line {line}: not UTF-8 (byte 0xe9); convert the file to UTF-8"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_utf16_is_refused_by_name(tmp_path, name, encoding):
    message = refusal(source(tmp_path / name, '{"text": "a"}\n'.encode(encoding)))
    assert message == ": UTF-16 or binary, not UTF-8; convert the file to UTF-8"


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


def test_jsonl_rows_may_leave_out_the_label_and_the_id_but_not_all_of_them(tmp_path):
    lines = '{"text": "a"}\n{"text": "b", "label": "x", "no": 7}\n{"label": "y", "text": "c"}\n'
    rows = read(source(tmp_path / "a.jsonl", lines, label="label", id="no"), "train")
    assert (rows.ids, rows.gold) == (("train-0", "7", "train-2"), (None, "x", "y"))
    assert refusal(source(tmp_path / "a.jsonl", label="kind")) == ": no column 'kind'; there are 'label', 'text'"


def test_a_key_that_a_json_object_has_twice_is_refused_where_it_is_read(tmp_path):
    message = refusal(source(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n'))
    assert message == ", line 2: two columns are named 'text'; rename or remove one"
    assert read(source(tmp_path / "a.jsonl", '{"text": "a", "b": 1, "b": {"c": 1, "c": 2}}'), "x").texts == ("a",)


def test_ndjson_is_jsonl(tmp_path):
    assert read(source(tmp_path / "a.ndjson", '{"text": "a"}\n'), "train").texts == ("a",)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": "a", "n": 1e99999999999999999999}'])
def test_jsonl_that_python_cannot_hold_says_where(tmp_path, line):
    assert refusal(source(tmp_path / "a.jsonl", line)).startswith(", line 1: not JSON (")


@pytest.mark.parametrize(
    "content", ['[{"text": "a"},\n{"text": "b"}]', '{"text": "a"}{"text": "b"}', '{\n"text": "a"}']
)
def test_json_that_is_not_one_object_a_line_says_what_to_do(tmp_path, content):
    message = refusal(source(tmp_path / "a.jsonl", content))
    assert message.startswith(", line 1: not JSON (")
    assert message.endswith("); write one object a line")
    assert "line 2" not in message


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


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.string_view()])
@pytest.mark.parametrize("encode", [False, True])
def test_parquet_text_of_any_type_is_the_same_text(tmp_path, kind, encode):
    column = pyarrow.array(["héllo", "b"]).cast(kind)
    column = column.dictionary_encode() if encode and kind != pyarrow.string_view() else column
    pyarrow.parquet.write_table(pyarrow.table({"text": column, "label": column, "no": column}), tmp_path / "a.parquet")
    rows = read(source(tmp_path / "a.parquet", label="label", id="no"), "train")
    assert rows.texts == rows.gold == rows.ids == ("héllo", "b")


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.string()])
def test_parquet_text_that_is_not_utf8_says_where(tmp_path, kind):
    latin = pyarrow.array([b"a", b"caf\xe9"]).view(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": latin}), tmp_path / "a.parquet")
    message = refusal(source(tmp_path / "a.parquet"))
    assert message.startswith(", row 1: ")
    assert "UTF-8" in message


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([["a"], ["b"]]),
        pyarrow.array([{"a": 1}, {"a": 2}]),
        pyarrow.array([1, 2], pyarrow.timestamp("ns")),
        pyarrow.array([1, 2], pyarrow.date32()),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("role", ["text", "label"])
def test_parquet_columns_that_hold_no_text_are_refused(tmp_path, column, role):
    table = {"text": pyarrow.array(["a", "b"]), "label": pyarrow.array(["x", "y"]), role: column}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    message = refusal(source(tmp_path / "a.parquet", label="label"))
    assert f"column {role!r}" in message


def test_parquet_columns_that_are_not_read_may_hold_anything(tmp_path):
    more = {"when": pyarrow.array([1], pyarrow.timestamp("ns")), "raw": pyarrow.array([b"\xff"]), "list": [[1]]}
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], **more}), tmp_path / "a.parquet")
    assert read(source(tmp_path / "a.parquet"), "train").texts == ("a",)
    assert read(source(tmp_path / "a.parquet", id="when"), "train").ids == ("1970-01-01 00:00:00.000000001",)


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert refusal(source(tmp_path / "a.parquet")) == ": two columns are named 'text'; rename or remove one"


# Labels by type


def gold(path, labels) -> tuple[str | None, ...]:
    """The gold labels of a file with these labels: pyarrow arrays, or lines of JSON or CSV."""
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": [f"text {row}" for row in range(len(labels))], "label": labels})
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f'{{"text": "text {row}", "label": {label}}}\n' for row, label in enumerate(labels)))
    else:
        path.write_text("text,label\n" + "".join(f"text {row},{label}\n" for row, label in enumerate(labels)))
    return read(source(path, label="label"), "train").gold


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("a.csv", ["0", "1", ""]),
        ("a.csv", ["0", " 1 ", "\xa0\u200b"]),
        ("a.jsonl", ["0", "1", "null"]),
        ("a.jsonl", ["0.0", "1.0", "NaN"]),
        ("a.jsonl", ["-0.0", "1e0", "null"]),
        ("a.jsonl", ["0e5", "10e-1", '""']),
        ("a.jsonl", ['"0"', '"1"', '" "']),
        ("a.parquet", pyarrow.array([0, 1, None], pyarrow.int8())),
        ("a.parquet", pyarrow.array([0, 1, None], pyarrow.uint64())),
        ("a.parquet", pyarrow.array([-0.0, 1.0, float("nan")])),
        ("a.parquet", pyarrow.array([0.0, 1.0, None])),
        ("a.parquet", pyarrow.array([0.0, 1.0, None], pyarrow.float32())),
        ("a.parquet", pyarrow.array([0.0, 1.0, None], pyarrow.float16())),
        ("a.parquet", pyarrow.array([Decimal("0.00"), Decimal("1.00"), None])),
        ("a.parquet", pyarrow.array([0.0, 1.0, None]).dictionary_encode()),
        ("a.parquet", pyarrow.array([0, 1, None]).dictionary_encode()),
        ("a.parquet", pyarrow.array([b"0", b"1", b""])),
    ],
)
def test_a_label_is_spelled_the_same_whatever_its_type(tmp_path, name, labels):
    assert gold(tmp_path / name, labels) == ("0", "1", None)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("a.csv", ["true", "false"]),
        ("a.jsonl", ["true", "false"]),
        ("a.jsonl", ['"true"', '"false"']),
        ("a.parquet", pyarrow.array([True, False])),
    ],
)
def test_a_boolean_label_is_spelled_the_same_whatever_the_file(tmp_path, name, labels):
    assert gold(tmp_path / name, labels) == ("true", "false")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("a.csv", ["0.1", "2.5", "9007199254740993"]),
        ("a.jsonl", ["0.10", "25e-1", "9007199254740993.0"]),
        ("a.jsonl", ["0.1", "2.5", "9007199254740993"]),
        ("a.parquet", pyarrow.array([Decimal("0.10"), Decimal("2.50"), Decimal("9007199254740993")])),
    ],
)
def test_numbers_that_are_not_whole_or_large_keep_every_digit(tmp_path, name, labels):
    assert gold(tmp_path / name, labels) == ("0.1", "2.5", "9007199254740993")


@pytest.mark.parametrize("kind", [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()])
def test_floats_have_the_digits_of_their_precision(tmp_path, kind):
    assert gold(tmp_path / "a.parquet", pyarrow.array([0.1, -2.5], kind)) == ("0.1", "-2.5")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("a.parquet", pyarrow.array([1.0, 2.0**53])),
        ("a.parquet", pyarrow.array([1.0, 2.0**24], pyarrow.float32())),
        ("a.parquet", pyarrow.array([1.0, float("inf")])),
        ("a.jsonl", ["1", "-Infinity"]),
        ("a.jsonl", ["1", "1e100"]),
    ],
)
def test_numbers_that_may_stand_for_another_say_where(tmp_path, name, labels):
    with pytest.raises(DataError, match=r"(row 1|line 2): expected a text in column 'label', got the (float|number)"):
        gold(tmp_path / name, labels)


@pytest.mark.parametrize("missing", ["null", "NaN", '""', '" "', '"\\u200b"'])
def test_a_text_that_is_missing_is_no_text(tmp_path, missing):
    message = refusal(source(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": {missing}}}\n'))
    assert message == ", line 2: the text (column 'text') is empty; remove the row"


def test_a_parquet_text_that_is_nan_says_where(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [1.0, float("nan")]}), tmp_path / "a.parquet")
    assert refusal(source(tmp_path / "a.parquet")) == ", row 1: the text (column 'text') is empty; remove the row"


# Blank texts that are kept


def test_blank_texts_are_kept_where_they_are_asked_for(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, " "]}), tmp_path / "a.parquet")
    assert read(source(tmp_path / "a.parquet"), "row", blanks=True).texts == ("a", "", " ")
    given = source(tmp_path / "a.jsonl", '{"text": null}\n{"no": 1}\n{"text": "a"}\n')
    assert read(given, "row", blanks=True).texts == ("", "", "a")
    assert read(source(tmp_path / "a.csv", "no,text\n1,\n2,a\n"), "row", blanks=True).texts == ("", "a")


def test_an_empty_line_between_the_rows_of_a_single_column_is_a_blank_text(tmp_path):
    given = source(tmp_path / "a.csv", 'text\na\n\n""\nb\n\n')
    assert read(given, "row", blanks=True).texts == ("a", "", "", "b")


def test_a_column_that_no_row_has_is_refused_even_where_blanks_are_kept(tmp_path):
    with pytest.raises(DataError, match="no column 'text'; there are 'body'"):
        read(source(tmp_path / "a.jsonl", '{"body": "a"}'), "row", blanks=True)


# Any file


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a", ""),
        ("a.txt", "; begin it with a line that names the columns and call it .csv or .tsv"),
        ("a.csv.gz", "; unpack it first"),
        ("a.json", "; write one object a line and call it .jsonl"),
    ],
)
def test_an_unknown_ending_lists_the_known_ones(tmp_path, name, remedy):
    known = ".csv, .tsv, .jsonl, .ndjson, .parquet"
    assert refusal(source(tmp_path / name, "text\n")) == f": unknown kind of file; expected one of {known}{remedy}"


def test_an_ending_may_be_in_capitals(tmp_path):
    assert read(source(tmp_path / "A.CSV", "text\nhello\n"), "train").texts == ("hello",)


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
def test_a_missing_file_says_so(tmp_path, name):
    message = refusal(source(tmp_path / name))
    assert message.startswith(": cannot be read (")
    assert message.endswith("correct the path")


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.jsonl", "pipe.parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    given = source(tmp_path / name)
    assert delimiter_found(given) is None
    assert refusal(given) == ": a pipe can be read only once; write it to a file first"
    with pytest.raises(DataError, match="a pipe can be read only once"):
        source_digest(given)


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
