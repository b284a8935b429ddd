"""`reflux status`: ask a service for its verdict on the student, and print it with the next command to run.

It reads `GET /gap` and judges nothing itself. The exit codes are in `reflux.exit_codes`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

KEY_VARIABLE = "REFLUX_API_KEY"
TIMEOUT_SECONDS = 10.0

_STYLES = {"stay": "bold green", "watch": "bold yellow", "leave": "bold red", "blind": "bold magenta"}
_KEY = re.compile(r"[!-~]+")
_STATUSES = {
    401: "give a key with --api-key-file FILE, or in " + KEY_VARIABLE,
    403: "give a key with --api-key-file FILE that may read /gap",
    404: "give the address of a Reflux service, as in http://reflux:8080",
    429: "this key's rate is used up; try again in a moment",
    503: "it may still load its bundle; try again in a moment",
}


class NoAnswerError(Exception):
    """No verdict could be read; the message says why, and the remedy."""


class Window(BaseModel):
    """One window of the gap. Ratios are in [0, 1], and null while they are not known."""

    ratio: float | None
    lower: float | None
    upper: float | None
    expected: float | None
    requests: int
    compared: int
    lost_ratio: float | None

    def cells(self) -> tuple[str, ...]:
        """Return the window as it is printed."""
        interval = "–" if self.lower is None else f"{_percent(self.lower)} to {_percent(self.upper)}"
        return (
            _percent(self.ratio),
            interval,
            _percent(self.expected),
            str(self.requests),
            str(self.compared),
            _percent(self.lost_ratio),
        )


class Slo(BaseModel):
    """The greatest gap that is accepted."""

    ratio: float | None
    source: str


class Teacher(BaseModel):
    """Whom the student is compared with."""

    name: str


class WholeGap(BaseModel):
    """The gap of all answers, those that the teacher gave included."""

    ratio: float | None
    lower: float | None
    upper: float | None


class Deferred(BaseModel):
    """What the teacher of a deferring cascade answered itself: a number of texts, and their share of all."""

    answered: int
    share: float | None
    gap: WholeGap

    def __str__(self) -> str:
        share = "" if self.share is None else f", {100 * self.share:.1f} % of all"
        told = f"The teacher answered {self.answered:,} texts itself{share}; the windows are of the others."
        gap = self.gap
        if gap.ratio is None or gap.lower is None or gap.upper is None:
            return told
        interval = f"{100 * gap.lower:.1f} to {100 * gap.upper:.1f} %"
        return f"{told} Since deployment, the gap of all answers is {100 * gap.ratio:.1f} % ({interval})."


class Status(BaseModel):
    """What of the body of `GET /gap` is printed."""

    verdict: Literal["stay", "watch", "leave", "blind"]
    message: str
    cause: str | None
    blind: list[str]
    model_version: str
    teacher: Teacher | None
    slo: Slo
    windows: dict[str, Window]
    last_comparison_age_seconds: float | None
    deferred: Deferred | None = None


def read_key(path: Path | None) -> str | None:
    """Return the key in the file `path`, else that of the environment, if any. Raises NoAnswerError."""
    if path is None:
        key, source = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not key:
            return None
    else:
        source = str(path)
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NoAnswerError(f"--api-key-file {path}: {error}; give a file that holds the key alone") from error
    if not _KEY.fullmatch(key):
        raise NoAnswerError(
            f"{source} holds no key; it must be one word of printable ASCII, as `reflux keys new` prints"
        )
    return key


def ask(url: str, key: str | None, *, window: str, variant: str, route: str = "") -> dict[str, Any]:
    """Return the body of `GET /gap`, or of a `route` below it, of the service at `url`. Raises NoAnswerError."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    address = f"{base_of(url)}/gap{route}"
    try:
        response = asyncio.run(_get(address, {"window": window, "variant": variant}, headers))
    except TimeoutError as error:
        raise NoAnswerError(
            f"{address} gave no answer within {TIMEOUT_SECONDS:g} s; is the service running, and is this its address?"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise NoAnswerError(
            f"{address} does not answer: {reason}; is the service running, and is this its address?"
        ) from error
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_redirect:
        # Not followed: a key is for the address that was given.
        target = response.headers.get("location", "another address")
        raise NoAnswerError(f"{address} redirects to {target}; {_STATUSES[404]}")
    if response.status_code != httpx.codes.OK:
        raise NoAnswerError(f"{address} answered {response.status_code}: {_refusal(response.status_code, body)}")
    if not isinstance(body, dict):
        raise NoAnswerError(f"{address} answered something else than a gap; {_STATUSES[404]}")
    return body


async def _get(address: str, params: dict[str, str], headers: dict[str, str]) -> httpx.Response:
    """Return the answer. Raises TimeoutError after TIMEOUT_SECONDS in all, however slowly it comes."""
    async with asyncio.timeout(TIMEOUT_SECONDS), httpx.AsyncClient(timeout=None) as client:
        return await client.get(address, params=params, headers=headers)


def parse(body: dict[str, Any]) -> Status:
    """Return what is printed of a body. Raises NoAnswerError."""
    try:
        return Status.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NoAnswerError(
            f"/gap has no verdict that this command reads ({place}: {first['msg']}); use the version of the service"
        ) from error


def show(status: Status, console: Console, *, window: str | None, next_command: str) -> None:
    """Print the verdict, its sentence, the windows (or the one that is given) and the next command."""
    console.print(
        Text(status.verdict.upper(), style=_STYLES[status.verdict]) + Text(f"  {status.message}", style="default")
    )
    for reason in status.blind:
        console.print(f"  - {reason}")
    console.print(
        f"model {status.model_version}, teacher {status.teacher.name if status.teacher else 'none'}, SLO "
        f"{_percent(status.slo.ratio)} (from the {status.slo.source}), last comparison "
        f"{_age(status.last_comparison_age_seconds)}"
    )
    table = Table("window", "gap", "95 % interval", "expected", "requests", "compared", "lost")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in status.windows.items():
        if window in (None, name):
            table.add_row(name, *row.cells())
    console.print(table, soft_wrap=False)
    console.print(f"next: {next_command}")


def next_command(status: Status, url: str, *, variant: str, key_file: Path | None) -> str:
    """Return the command that a verdict and its cause call for, with a comment where it needs one."""
    service = base_of(url)
    key = f'-H "authorization: Bearer $(cat {shlex.quote(str(key_file))})" ' if key_file else ""
    again = f"reflux status {shlex.quote(service)}"
    again += f" --api-key-file {shlex.quote(str(key_file))}" if key_file else ""
    again += " --variant candidate" if variant == "candidate" else ""
    match status.verdict, status.cause:
        case "stay", _:
            return f"{again}  # again before each rollout; nothing is to be done now"
        case "blind", _ if status.teacher is None:
            return "REFLUX_SHADOW__ENABLED=true REFLUX_SHADOW__TEACHER='{\"kind\": …}' reflux serve BUNDLE"
        case "blind", _:
            return f"curl -s {key}{shlex.quote(f'{service}/metrics')} | grep shadow_results  # what the samples came to"
        case _, "teacher":
            return "reflux label TASK.yaml --dry-run  # what the labels of the teacher as it is now would cost"
        case "leave", _:
            bundle = "the stable bundle" if variant == "candidate" else "the last good bundle"
            return f"curl -s -X POST {key}{service}/admin/reload  # once {bundle} is in the folder that is served"
        case _, None:
            return f"{again}  # again, when more texts have been compared"
        case _:
            where = shlex.quote(f"{service}/gap/disagreements?limit=50&variant={variant}")
            return f"curl -s {key}{where}  # the texts on which they differ"


def base_of(url: str) -> str:
    """Return the address of a service with its scheme, `http` by default, and without a slash at its end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _refusal(code: int, body: Any) -> str:
    said = body.get("error") if isinstance(body, dict) else None
    message = said.get("message") if isinstance(said, dict) else None
    parts = [part for part in (message, _STATUSES.get(code)) if isinstance(part, str)]
    return "; ".join(parts) or "see the log of the service"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.1f} %"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
