"""Where the pods that ask a teacher, and its members if it is an ensemble, find its keys: in files of one Secret."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from distill.sections import walk

FOLDER = PurePosixPath("/teacher")
"""Where pods have the Secret."""


def with_key_files(teacher: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of `teacher` in which every key is read from FOLDER.

    A key is the file `key`. Several are `key-1`, `key-2`, in the order in which they are first used: members that name
    the same variable or file share one. A member that sends no key gets none.
    """
    from distill.teachers import parse

    sources = list(dict.fromkeys(_sources(teacher)))
    names = {source: "key" if len(sources) == 1 else f"key-{at}" for at, source in enumerate(sources, 1)}

    def placed(one: dict[str, Any]) -> dict[str, Any]:
        if one["kind"] == "ensemble":
            members = [{**member, "teacher": placed(member["teacher"])} for member in one["members"]]
            return one | {"members": members}
        source = getattr(parse(one), "key_source", None)
        if source is None:
            return one
        kept = {key: value for key, value in one.items() if key != "key_env"}
        return kept | {"key_file": str(FOLDER / names[source])}

    return placed(teacher)


def key_files(teacher: dict[str, Any]) -> dict[str, list[str]]:
    """Return who reads each file of the Secret, as KIND:MODEL, by the name of the file. `teacher` has its key files."""
    from distill.teachers import parse

    found: dict[str, list[str]] = {}
    for _, value in walk(parse(teacher)):
        if (file := getattr(value, "key_file", None)) is not None:
            found.setdefault(Path(file).name, []).append(f"{value.kind}:{value.model}")
    return found


def addresses(teacher: dict[str, Any]) -> list[str]:
    """Return the addresses of the APIs behind which a teacher and its members are."""
    from distill.teachers import parse

    found = (getattr(value, "base_url", None) for _, value in walk(parse(teacher)))
    return [address for address in found if isinstance(address, str)]


def _sources(teacher: dict[str, Any]) -> list[Path | str]:
    from distill.teachers import parse

    found = (getattr(value, "key_source", None) for _, value in walk(parse(teacher)))
    return [source for source in found if source is not None]
