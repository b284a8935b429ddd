"""Tensors as bytes."""

import numpy as np
import pytest

from service.compat.open_inference.tensors import read_strings, split, write_floats, write_strings
from service.errors import InvalidRequestError, MalformedBodyError


@pytest.mark.parametrize("strings", [[], ["a"], ["", "é🎉", "a" * 300, "\0"]])
def test_strings_survive_a_round_trip(strings):
    assert read_strings(write_strings(strings), "x", 64) == strings


def test_a_string_is_its_length_and_its_bytes():
    assert write_strings(["é", "ab"]) == b"\x02\0\0\0\xc3\xa9\x02\0\0\0ab"


def test_floats_are_little_endian_and_row_after_row():
    values = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    assert np.frombuffer(write_floats(values.T), dtype="<f4").tolist() == [1.0, 3.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\0\0\0a\x02", "item 1 goes beyond the end"),
        (b"\x02\0\0\0a", "item 0 goes beyond the end"),
        (b"\xff\xff\xff\xffa", "item 0 goes beyond the end"),
        (b"\x01\0\0\0a\x01\0\0\0\xff", "item 1 is not UTF-8"),
    ],
)
def test_invalid_strings_are_refused_with_the_item(data, message):
    with pytest.raises(InvalidRequestError, match=message):
        read_strings(data, "inputs[0]", 64)


def test_a_body_is_split_where_its_header_says():
    assert split(b"{}abc", b"2") == (b"{}", b"abc")
    assert split(b"{}", b"2") == (b"{}", b"")
    assert split(b"{}abc", None) == (b"{}abc", b"")


@pytest.mark.parametrize("header", [b"", b"-1", b"6", b"two", b"1.0"])
def test_an_invalid_header_is_refused(header):
    with pytest.raises(MalformedBodyError, match="Inference-Header-Content-Length"):
        split(b"{}abc", header)


def test_too_many_items_are_refused():
    assert read_strings(write_strings(["a"] * 3), "x", 3) == ["a"] * 3
    with pytest.raises(InvalidRequestError, match=r"x: at most 3 texts per request, got more"):
        read_strings(write_strings(["a"] * 4), "x", 3)
