"""The file of API keys: names, digests and what each may do. It never holds a key itself, and neither do messages.

    # NAME:SHA256[:OPTION,...], where an option is `admin` or `rate=TEXTS/s`
    tickets:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8:rate=200/s

A name may have several lines, with the same options: to rotate a key, add the new one's line, and take the old one's
out when nobody uses it any more.
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
"""By it, tools that look for leaked secrets can know a key."""


class KeysError(StartupError):
    """The file does not fit; the message says where and what to do."""


class NoKeysError(KeysError):
    """There is no file, or no key in it: nobody may ask."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a name may do."""

    admin: bool = False
    rate: float | None = None
    """Texts a second; None is no limit."""


@dataclass(frozen=True, slots=True)
class Line:
    """One key."""

    name: str
    digest: bytes
    terms: Terms


def new_key() -> str:
    """A fresh key, of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> bytes:
    """What the file holds of a key. A plain hash does: keys are random, too many to be tried, as passwords are not."""
    return hashlib.sha256(key).digest()


def key_line(name: str, key: str, options: str = "") -> str:
    """The line of a key. Raises KeysError when the name or the options do not fit."""
    line = f"{name}:{digest_of(key.encode()).hex()}" + (f":{options}" if options else "")
    _line(line)
    return line


def read_keys(path: Path) -> list[Line]:
    """Read a file, of which at least one line is a key. Raises KeysError: NoKeysError where there is none."""
    shown = _shown(path)
    try:
        rows = _read(path).splitlines()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoKeysError(f"{shown}: the API keys cannot be read ({error.strerror})") from error
    except OSError as error:
        raise KeysError(f"{shown}: the API keys cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise KeysError(f"{shown}: the API keys are not UTF-8") from None
    lines: list[Line] = []
    for number, row in enumerate(rows, 1):
        if content := row.partition("#")[0].strip():
            try:
                lines.append(_beside(_line(content), lines))
            except KeysError as error:
                raise KeysError(f"{shown}, line {number}: {error}") from None
    if not lines:
        raise NoKeysError(f"{shown}: there is no key, so nobody could ask; make one with `reflux keys new NAME`")
    return lines


def _shown(path: Path) -> str:
    """The path for a message. One without a folder is not told: it may be a key, put into the wrong place."""
    return str(path) if len(path.parts) > 1 else "the file that REFLUX_API_KEYS names"


def _read(path: Path) -> str:
    """The text of a regular file, without a byte order mark. What else a path may name is not read: a FIFO waits."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise KeysError(
                f"{_shown(path)}: the API keys are not in a regular file, but in a pipe or a device; name a file"
            )
        return file.read().decode("utf-8-sig")


def _line(content: str) -> Line:
    name, digest, options = [*content.split(":", 2), "", ""][:3]
    if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise KeysError("give NAME:SHA256[:OPTION,...], a name of letters, digits, `.`, `_` and `-`, and 64 hex digits")
    return Line(name, bytes.fromhex(digest), _terms(options))


def _terms(options: str) -> Terms:
    admin, rate = False, None
    for option in filter(None, options.split(",")):
        limit = _TEXTS_PER_SECOND.fullmatch(option)
        if option == _ADMIN:
            admin = True
        elif limit is not None and 0 < float(limit[1]) < float("inf"):
            rate = float(limit[1])
        else:
            raise KeysError("an option is `admin` or `rate=TEXTS/s` with a number above 0, such as `rate=10/s`")
    return Terms(admin, rate)


def _beside(line: Line, others: list[Line]) -> Line:
    for other in others:
        if other.digest == line.digest:
            raise KeysError("the same key is on a line before")
        if other.name == line.name and other.terms != line.terms:
            raise KeysError("the name is on a line before with other options; give both the same")
    return line
