"""Rows come out of files as they went in, and a row that cannot be used says where it stands."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from distill.data.sources import delimiter_found, read, source_digest
from distill.data.support_desk import tickets
from distill.errors import DataError
from distill.sections import FileSource, TicketSource


def source(path, content=None, **columns):
    """A source over a file that is written first: a text, bytes, or the columns of a Parquet file."""
    if isinstance(content, dict):
        content = pyarrow.table(content)
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileSource(path=path, **columns)


def refusal(given) -> str:
    with pytest.raises(DataError) as caught:
        read(given, "train")
    message = str(caught.value)
    assert message.startswith(str(given.path))
    return message.removeprefix(str(given.path))


BLANK_LINES = [json.dumps({"text": "h\u00e9llo\u2028there", "label": 3}), "", "  ", '{"text": "b", "label": null}']
SOME_LACK = '{"text": "a"}\n{"text": "b", "label": "x", "no": 7}\n{"label": "y", "text": "c"}\n'
NAMED = {"text": "body", "label": "kind", "id": "no"}

ROWS = {
    "numbers for ids, and no gold unless asked": (
        "a.csv", "text,label\nhello,x\nworld,y\n", {},
        (("train-0", "train-1"), ("hello", "world"), (None, None)),
    ),
    "columns named by the source": (
        "a.csv", "no,body,kind\n7,hello,x\n8,world,\n", NAMED,
        (("7", "8"), ("hello", "world"), ("x", None)),
    ),
    "a column without a name": (
        "a.csv", ",text,label\n0,hello,x\n1,world,y\n", {"label": "label"},
        (("train-0", "train-1"), ("hello", "world"), ("x", "y")),
    ),
    "spaces around labels": (
        "a.csv", "text,label\na, billing \nb,  \n", {"label": "label"},
        (("train-0", "train-1"), ("a", "b"), ("billing", None)),
    ),
    "blank lines of JSON": (
        "a.jsonl", "\n".join(BLANK_LINES), {"label": "label"},
        (("train-0", "train-1"), ("h\u00e9llo\u2028there", "b"), ("3", None)),
    ),
    "rows of JSON without a label or an id": (
        "a.jsonl", SOME_LACK, {"label": "label", "id": "no"},
        (("train-0", "7", "train-2"), ("a", "b", "c"), (None, "x", "y")),
    ),
    "Parquet": (
        "a.parquet", {"no": [1, 2], "body": ["a", "b\nc"], "kind": ["x", None]}, NAMED,
        (("1", "2"), ("a", "b\nc"), ("x", None)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "columns", "rows"), ROWS.values(), ids=ROWS)
def test_rows_have_their_ids_texts_and_gold_labels(tmp_path, name, content, columns, rows):
    found = read(source(tmp_path / name, content, **columns), "train")
    assert (found.ids, found.texts, found.gold) == rows


LONG = "word " * 100_000
MANY = tuple(f"text {number}" for number in range(5000))

TEXTS = {
    "quotes, commas and newlines": (
        "a.csv", 'text\n"say ""hi"", please"\n"two\nlines"\n" here "\n', ('say "hi", please', "two\nlines", " here ")
    ),
    "a byte order mark": ("a.csv", "\ufefftext,label\nhello,x\n", ("hello",)),
    "carriage returns": ("a.csv", "text,label\r\nhello,x\r\n", ("hello",)),
    "no last newline": ("a.csv", "text,label\nhello,x", ("hello",)),
    "blank lines": ("a.csv", "text\nhello\n\nworld\n", ("hello", "world")),
    "a field longer than the csv module's default limit": ("a.csv", f"text\n{LONG}\n", (LONG,)),
    "two columns of one name that are not read": ("a.csv", "note,text,note\n1,a,2\n", ("a",)),
    "an ending in capitals": ("A.CSV", "text\nhello\n", ("hello",)),
    "JSON after a byte order mark": ("a.jsonl", '\ufeff{"text": "a"}\n', ("a",)),
    "JSON in .ndjson": ("a.ndjson", '{"text": "a"}\n', ("a",)),
    "JSON with a key twice that is not read": ("a.jsonl", '{"text": "a", "b": 1, "b": {"c": 1, "c": 2}}', ("a",)),
    "Parquet in several batches": ("a.parquet", {"text": list(MANY)}, MANY),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "texts"), TEXTS.values(), ids=TEXTS)
def test_texts_are_read_from(tmp_path, name, content, texts):
    assert read(source(tmp_path / name, content), "train").texts == texts


@pytest.mark.parametrize("header", ["text, label ", "\ufefftext,label", "\ufeff\ufefftext,label"])
def test_spaces_around_the_name_of_a_column_do_not_count(tmp_path, header):
    rows = read(source(tmp_path / "a.csv", f"{header}\na,x\n", label="label"), "train")
    assert (rows.texts, rows.gold) == (("a",), ("x",))


def test_a_column_is_named_exactly_where_spaces_tell_two_apart(tmp_path):
    given = source(tmp_path / "a.csv", "text, text\na,b\n")
    assert read(given, "train").texts == ("a",)
    assert read(given.model_copy(update={"text": " text"}), "train").texts == ("b",)


OTHER_COLUMNS = (
    "expected 2 columns, got {} with the delimiter ','; quote the field that holds it, or give another `delimiter`"
)
TWO_OF_ONE_NAME = "two columns are named 'text'; rename or remove one"
EMPTY = "the text (column 'text') is empty; remove the row"
ENDINGS = "unknown kind of file; expected one of .csv, .tsv, .jsonl, .ndjson, .parquet"
BODY = "body,kind\nhello,x\n"
LATIN = "convert the file to UTF-8"

REFUSED = [
    ("a.csv", 'text,label\n"fi\nne",x\none,two,three\n', {}, f", line 4: {OTHER_COLUMNS.format(3)}"),
    ("a.csv", 'text,label\n"fi\nne",x\none,two,\n', {}, f", line 4: {OTHER_COLUMNS.format(3)}"),
    ("a.csv", 'text,label\n"fi\nne",x\nshort\n', {}, f", line 4: {OTHER_COLUMNS.format(1)}"),
    ("a.csv", 'text,label\nfine,x\n"never closed,x\nmore,y\n', {}, ", line 3: not CSV (unexpected end of data)…"),
    ("a.tsv", 'text\tlabel\n"hi" she said\tx\ty\n', {}, ", line 2: not CSV (…"),
    ("a.csv", "text,text,label\na,b,x\n", {}, f": {TWO_OF_ONE_NAME}"),
    ("a.csv", "text ,text\t,label\na,b,x\n", {}, f": {TWO_OF_ONE_NAME}"),
    ("a.csv", "body;kind;or so\nhello, you;x;y\n", {}, ", line 1: no column 'text'; there are 'body', 'kind', 'or so'"),
    ("a.csv", BODY, {}, ", line 1: no column 'text'; there are 'body', 'kind'"),
    ("a.csv", BODY, {"text": "body", "label": "gold"}, ", line 1: no column 'gold'; there are 'body', 'kind'"),
    ("a.csv", BODY, {"text": "body", "id": "no"}, ", line 1: no column 'no'; there are 'body', 'kind'"),
    *(
        ("a.csv", f'text,label\nhello,x\n"{text}",y\n', {}, f", line 3: {EMPTY}")
        for text in ("", "   ", "\t", "\xa0", "\u200b", " \ufeff\u2060 ")
    ),
    ("a.csv", "id,text\n1,a\n2,b\n1,c\n", {"id": "id"}, ": the id '1' (column 'id') is given twice; ids must differ"),
    ("a.csv", "text\ncaf\u00e9\n".encode("latin-1"), {}, f", line 2: not UTF-8 (byte 0xe9); {LATIN}"),
    ("a.csv", "", {}, ": no rows"),
    ("a.csv", "text,label\n", {}, ": no rows"),
    ("a.jsonl", '{"text": "caf\u00e9"}\n'.encode("latin-1"), {}, f", line 1: not UTF-8 (byte 0xe9); {LATIN}"),
    *(
        ("a.jsonl", f'{{"text": "a"}}\n\n{line}\n', {}, ", line 3: not JSON (…")
        for line in ("{", "hello", "{'text': 'a'}")
    ),
    *(
        ("a.jsonl", f'{{"text": "a"}}\n{line}\n', {}, f", line 2: expected an object, got {kind}")
        for line, kind in (("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("3", "int"))
    ),
    ("a.jsonl", '{"text": "a"}\n{"body": "b"}\n', {}, ", line 2: no column 'text'; there are 'body'"),
    ("a.jsonl", SOME_LACK, {"label": "kind"}, ": no column 'kind'; there are 'label', 'text'"),
    ("a.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', {}, f", line 2: {TWO_OF_ONE_NAME}"),
    ("a.jsonl", "[" * 100_000, {}, ", line 1: not JSON (…"),
    ("a.jsonl", '{"text": "a", "n": 1e99999999999999999999}', {}, ", line 1: not JSON (…"),
    ("a.jsonl", '{"text": ["a", "b"]}', {}, ", line 1: expected a text in column 'text', got …"),
    ("a.jsonl", '{"text": {"de": "a"}}', {}, ", line 1: expected a text in column 'text', got …"),
    (
        *("a.jsonl", '{"text": "a"}\n{"text": "half an emoji \\ud83d"}\n', {}),
        ", line 2: column 'text' holds half a character…",
    ),
    *(
        ("a.jsonl", f'{{"text": "a"}}\n{{"text": {missing}}}\n', {}, f", line 2: {EMPTY}")
        for missing in ("null", "NaN", '""', '" "', '"\\u200b"')
    ),
    ("a.jsonl", "", {}, ": no rows"),
    ("a.jsonl", "\n", {}, ": no rows"),
    ("a.parquet", {"text": ["a", None]}, {}, f", row 1: {EMPTY}"),
    ("a.parquet", {"text": [1.0, float("nan")]}, {}, f", row 1: {EMPTY}"),
    ("a.parquet", b"", {}, ": not Parquet (…"),
    ("a.parquet", b"text\nhello\n", {}, ": not Parquet (…"),
    ("a.parquet", b"PAR1" * 10, {}, ": not Parquet (…"),
    ("a.parquet", pyarrow.table([["a"], ["b"]], names=["text", "text"]), {}, f": {TWO_OF_ONE_NAME}"),
    ("a.parquet", {"text": pyarrow.array([], pyarrow.string())}, {}, ": no rows"),
    ("a", "text\n", {}, f": {ENDINGS}"),
    ("a.txt", "text\n", {}, f": {ENDINGS}; begin it with a line that names the columns and call it .csv or .tsv"),
    ("a.csv.gz", "text\n", {}, f": {ENDINGS}; unpack it first"),
    ("a.json", "text\n", {}, f": {ENDINGS}; write one object a line and call it .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "columns", "message"), REFUSED)
def test_what_cannot_be_used_says_where_it_stands_and_what_to_do(tmp_path, name, content, columns, message):
    found = refusal(source(tmp_path / name, content, **columns))
    assert found.startswith(message[:-1]) if message.endswith("…") else found == message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_utf16_is_refused_by_name(tmp_path, name, encoding):
    message = refusal(source(tmp_path / name, '{"text": "a"}\n'.encode(encoding)))
    assert message == ": UTF-16 or binary, not UTF-8; convert the file to UTF-8"


@pytest.mark.parametrize(
    "content", ['[{"text": "a"},\n{"text": "b"}]', '{"text": "a"}{"text": "b"}', '{\n"text": "a"}']
)
def test_json_that_is_not_one_object_a_line_says_what_to_do(tmp_path, content):
    message = refusal(source(tmp_path / "a.jsonl", content))
    assert message.startswith(", line 1: not JSON (")
    assert message.endswith("); write one object a line")
    assert "line 2" not in message


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


# Parquet


def test_parquet_that_is_cut_off_is_refused(tmp_path):
    given = source(tmp_path / "a.parquet", {"text": ["some text"] * 500})
    os.truncate(given.path, given.path.stat().st_size - 20)
    refusal(given)


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.string_view()])
@pytest.mark.parametrize("encode", [False, True])
def test_parquet_text_of_any_type_is_the_same_text(tmp_path, kind, encode):
    column = pyarrow.array(["h\u00e9llo", "b"]).cast(kind)
    column = column.dictionary_encode() if encode and kind != pyarrow.string_view() else column
    rows = read(source(tmp_path / "a.parquet", {"body": column, "kind": column, "no": column}, **NAMED), "train")
    assert rows.texts == rows.gold == rows.ids == ("h\u00e9llo", "b")


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.string()])
def test_parquet_text_that_is_not_utf8_says_where(tmp_path, kind):
    message = refusal(source(tmp_path / "a.parquet", {"text": pyarrow.array([b"a", b"caf\xe9"]).view(kind)}))
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
    table = {"text": ["a", "b"], "label": ["x", "y"], role: column}
    assert f"column {role!r}" in refusal(source(tmp_path / "a.parquet", table, label="label"))


def test_parquet_columns_that_are_not_read_may_hold_anything(tmp_path):
    more = {"when": pyarrow.array([1], pyarrow.timestamp("ns")), "raw": pyarrow.array([b"\xff"]), "list": [[1]]}
    given = source(tmp_path / "a.parquet", {"text": ["a"], **more})
    assert read(given, "train").texts == ("a",)
    assert read(given.model_copy(update={"id": "when"}), "train").ids == ("1970-01-01 00:00:00.000000001",)


# Labels by type


def gold(path, labels) -> tuple[str | None, ...]:
    """The gold labels of a file with these labels: pyarrow arrays, or lines of JSON or CSV."""
    if path.suffix == ".parquet":
        content: Any = {"text": ["text"] * len(labels), "label": labels}
    elif path.suffix == ".jsonl":
        content = "".join(f'{{"text": "text", "label": {label}}}\n' for label in labels)
    else:
        content = "text,label\n" + "".join(f"text,{label}\n" for label in labels)
    return read(source(path, content, label="label"), "train").gold


ZERO_ONE_NONE, TRUE_FALSE, DIGITS = ("0", "1", None), ("true", "false"), ("0.1", "2.5", "9007199254740993")


@pytest.mark.parametrize(
    ("name", "labels", "spelled"),
    [
        ("a.csv", ["0", "1", ""], ZERO_ONE_NONE),
        ("a.csv", ["0", " 1 ", "\xa0\u200b"], ZERO_ONE_NONE),
        ("a.jsonl", ["0", "1", "null"], ZERO_ONE_NONE),
        ("a.jsonl", ["0.0", "1.0", "NaN"], ZERO_ONE_NONE),
        ("a.jsonl", ["-0.0", "1e0", "null"], ZERO_ONE_NONE),
        ("a.jsonl", ["0e5", "10e-1", '""'], ZERO_ONE_NONE),
        ("a.jsonl", ['"0"', '"1"', '" "'], ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0, 1, None], pyarrow.int8()), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0, 1, None], pyarrow.uint64()), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([-0.0, 1.0, float("nan")]), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0.0, 1.0, None]), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0.0, 1.0, None], pyarrow.float32()), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0.0, 1.0, None], pyarrow.float16()), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([Decimal("0.00"), Decimal("1.00"), None]), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0.0, 1.0, None]).dictionary_encode(), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([0, 1, None]).dictionary_encode(), ZERO_ONE_NONE),
        ("a.parquet", pyarrow.array([b"0", b"1", b""]), ZERO_ONE_NONE),
        ("a.csv", ["true", "false"], TRUE_FALSE),
        ("a.jsonl", ["true", "false"], TRUE_FALSE),
        ("a.jsonl", ['"true"', '"false"'], TRUE_FALSE),
        ("a.parquet", pyarrow.array([True, False]), TRUE_FALSE),
        ("a.csv", ["0.1", "2.5", "9007199254740993"], DIGITS),
        ("a.jsonl", ["0.10", "25e-1", "9007199254740993.0"], DIGITS),
        ("a.jsonl", ["0.1", "2.5", "9007199254740993"], DIGITS),
        ("a.parquet", pyarrow.array([Decimal("0.10"), Decimal("2.50"), Decimal("9007199254740993")]), DIGITS),
        ("a.parquet", pyarrow.array([0.1, -2.5], pyarrow.float16()), ("0.1", "-2.5")),
        ("a.parquet", pyarrow.array([0.1, -2.5], pyarrow.float32()), ("0.1", "-2.5")),
        ("a.parquet", pyarrow.array([0.1, -2.5], pyarrow.float64()), ("0.1", "-2.5")),
    ],
)
def test_a_label_is_spelled_the_same_whatever_its_type_and_file(tmp_path, name, labels, spelled):
    assert gold(tmp_path / name, labels) == spelled


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


# Blank texts that are kept


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.parquet", {"text": ["a", None, " "]}, ("a", "", " ")),
        ("a.jsonl", '{"text": null}\n{"no": 1}\n{"text": "a"}\n', ("", "", "a")),
        ("a.csv", "no,text\n1,\n2,a\n", ("", "a")),
        ("a.csv", 'text\na\n\n""\nb\n\n', ("a", "", "", "b")),  # an empty line between rows of a single column
    ],
)
def test_blank_texts_are_kept_where_they_are_asked_for(tmp_path, name, content, texts):
    assert read(source(tmp_path / name, content), "row", blanks=True).texts == texts


def test_a_column_that_no_row_has_is_refused_even_where_blanks_are_kept(tmp_path):
    with pytest.raises(DataError, match="no column 'text'; there are 'body'"):
        read(source(tmp_path / "a.jsonl", '{"body": "a"}'), "row", blanks=True)


# The support desk


def test_tickets_are_drawn_with_their_seed():
    rows = read(TicketSource(tickets=12, seed=3), "test")
    drawn = tickets.generate(12, 3)
    assert rows.ids == tuple(f"test-{number}" for number in range(12))
    assert rows.texts == tuple(ticket.text for ticket in drawn)
    assert rows.gold == tuple(ticket.label for ticket in drawn)
    assert read(TicketSource(tickets=12, seed=4), "test").texts != rows.texts
