"""The file of API keys: names, digests of keys, and options. Neither the file nor any message contains a key.

    # NAME:SHA256[:OPTION,...], where an option is `admin` or `rate=TEXTS/s`
    tickets:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8:rate=200/s

A name may have several lines with the same options. To rotate a key, add a line for the new one, and remove that of the
old one when nobody uses it any more.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from service.errors import StartupError

_ADMIN = "admin"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_TEXTS_PER_SECOND = re.compile(r"rate=(\d+(?:\.\d+)?)/s", re.ASCII)
_PREFIX = "reflux_"
"""Lets secret scanners recognise a key."""


class KeysError(StartupError):
    """The file is invalid; the message says where, and what to do."""


class NoKeysError(KeysError):
    """There is no file, or no key in it."""


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The options of a name."""

    admin: bool = False
    rate: float | None = None
    """Texts per second; None: no limit."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of the file: one key."""

    name: str
    digest: bytes
    options: KeyOptions


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> bytes:
    """Return the SHA-256 of a key. It needs no salt: unlike a password, a random key cannot be guessed."""
    return hashlib.sha256(key).digest()


def key_line(name: str, key: str, options: str = "") -> str:
    """Return the line of the file for a key. Raises KeysError if the name or the options are invalid."""
    line = f"{name}:{digest_of(key.encode()).hex()}" + (f":{options}" if options else "")
    _parse_line(line)
    return line


def read_keys(path: Path) -> list[KeyEntry]:
    """Read the entries of a file. Raises NoKeysError if there are none, KeysError if one is invalid."""
    shown = _shown(path)
    try:
        lines = _read(path).splitlines()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoKeysError(f"{shown}: the API keys cannot be read ({error.strerror})") from error
    except OSError as error:
        raise KeysError(f"{shown}: the API keys cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise KeysError(f"{shown}: the API keys are not UTF-8") from None
    entries: list[KeyEntry] = []
    for number, line in enumerate(lines, 1):
        if content := line.partition("#")[0].strip():
            try:
                entries.append(_parse_line(content))
                _check_duplicates(entries)
            except KeysError as error:
                raise KeysError(f"{shown}, line {number}: {error}") from None
    if not entries:
        raise NoKeysError(f"{shown}: it has no key; make one with `reflux keys new NAME`")
    return entries


def _shown(path: Path) -> str:
    """Return the path for a message. A bare name is not shown: it may be a key in the wrong setting."""
    return str(path) if len(path.parts) > 1 else "the file that REFLUX_API_KEYS names"


def _read(path: Path) -> str:
    """Return the text of a regular file, without a byte order mark. Refuse others: reading a FIFO would block."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise KeysError(
                f"{_shown(path)}: the API keys are not in a regular file, but in a pipe or a device; name a file"
            )
        return file.read().decode("utf-8-sig")


def _parse_line(content: str) -> KeyEntry:
    name, digest, options = [*content.split(":", 2), "", ""][:3]
    if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise KeysError("give NAME:SHA256[:OPTION,...], a name of letters, digits, `.`, `_` and `-`, and 64 hex digits")
    return KeyEntry(name, bytes.fromhex(digest), _parse_options(options))


def _parse_options(options: str) -> KeyOptions:
    admin, rate = False, None
    for option in filter(None, options.split(",")):
        limit = _TEXTS_PER_SECOND.fullmatch(option)
        if option == _ADMIN:
            admin = True
        elif limit is not None and 0 < float(limit[1]) < float("inf"):
            rate = float(limit[1])
        else:
            raise KeysError("an option is `admin` or `rate=TEXTS/s` with a number above 0, such as `rate=10/s`")
    return KeyOptions(admin, rate)


def _check_duplicates(entries: list[KeyEntry]) -> None:
    """Raise KeysError if the last entry repeats a key, or a name with other options."""
    *others, entry = entries
    for other in others:
        if other.digest == entry.digest:
            raise KeysError("an earlier line has the same key")
        if other.name == entry.name and other.options != entry.options:
            raise KeysError("an earlier line has the same name with other options; give both the same")
