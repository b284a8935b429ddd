"""The file of API keys: its format, and that an error names the line without repeating it."""

import hashlib
import os

import pytest

from service.auth.keyfile import KeyEntry, KeyOptions, KeysError, key_line, new_key, read_keys

ONE, TWO = (hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))


@pytest.fixture
def read(tmp_path):
    """`read(text)`: the lines of a file with this text."""

    def read(text):
        (tmp_path / "keys").write_text(text)
        return read_keys(tmp_path / "keys")

    return read


def test_a_line_is_a_name_a_digest_and_options(read):
    lines = read(f"# who\n\na.b_c-1:{ONE}\n two:{TWO.upper()}:admin,rate=0.5/s # the second\r\n")
    assert lines == [
        KeyEntry("a.b_c-1", bytes.fromhex(ONE), KeyOptions()),
        KeyEntry("two", bytes.fromhex(TWO), KeyOptions(admin=True, rate=0.5)),
    ]


def test_a_name_may_have_two_keys_while_one_replaces_the_other(read):
    assert [line.name for line in read(f"a:{ONE}:admin\na:{TWO}:admin")] == ["a", "a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tickets", "NAME:SHA256"),
        ("tickets:hunter2", "NAME:SHA256"),
        (f"tickets:{ONE}0", "NAME:SHA256"),
        (f"tick ets:{ONE}", "NAME:SHA256"),
        (f":{ONE}", "NAME:SHA256"),
        (f"{'x' * 65}:{ONE}", "NAME:SHA256"),
        (f"tickets:{ONE}:root", "an option is"),
        (f"tickets:{ONE}:rate=10", "an option is"),
        (f"tickets:{ONE}:rate=0/s", "an option is"),
        (f"tickets:{ONE}:rate=-1/s", "an option is"),
        (f"tickets:{ONE}:rate=nan/s", "an option is"),
        (f"tickets:{ONE}:rate={'9' * 400}/s", "an option is"),
        (f"other:{TWO}", "an earlier line has the same key"),
        (f"first:{ONE}:admin", "other options"),
    ],
)
def test_an_invalid_line_is_named_by_its_number_and_not_repeated(read, line, message):
    with pytest.raises(KeysError, match=rf"keys, line 3: .*{message}") as refused:
        read(f"first:{TWO}\n\n{line}\n")
    assert line not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "\n# nobody\n"])
def test_a_file_without_a_key_is_refused(read, text):
    with pytest.raises(KeysError, match="it has no key"):
        read(text)


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(KeysError, match="cannot be read"):
        read_keys(tmp_path / "none")
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match="UTF-8"):
        read_keys(tmp_path / "keys")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_other_than_regular_files_are_refused_without_blocking(tmp_path, make):
    make(tmp_path / "keys")
    with pytest.raises(KeysError, match=r"keys: the API keys (cannot be read|are not in a regular file)"):
        read_keys(tmp_path / "keys")


def test_a_byte_order_mark_is_ignored(read):
    assert [line.name for line in read(f"\ufefftickets:{ONE}")] == ["tickets"]


def test_new_keys_are_long_and_unique():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {len("reflux_") + 43}


def test_a_key_line_is_read_as_it_was_written(read):
    key = new_key()
    (line,) = read(key_line("tickets", key, "admin"))
    assert line == KeyEntry("tickets", hashlib.sha256(key.encode()).digest(), KeyOptions(admin=True))
    with pytest.raises(KeysError):
        key_line("two words", key)
