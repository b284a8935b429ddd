"""What trouble excuses, exactly: which requests may fail, and which counts may be missing. All else is a defect. Pure.

A process that is killed takes with it what it was doing, what it had counted and not stored yet, and what Prometheus
had not scraped yet. Nothing else excuses anything: not a cut link, not an orderly stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rehearsals.hosts.load import OK, Answered

STORED_SECONDS = 1.0
"""A killed process may have counted requests of so long before without having stored their counts: `flush_seconds`,
0.25, and the time for writing."""

SCRAPED_SECONDS = 2.5
"""What a process counted in so long before its end, or before its first scrape, Prometheus may not have seen: the time
between scrapes, 1, and that of a scrape, at most 1."""


@dataclass(frozen=True)
class Span:
    """A time on a host, from `begin` to `end` in Unix seconds."""

    host: str
    begin: float
    end: float

    def served(self, request: Answered) -> bool:
        """Return whether the host gave the answer to `request` in this time."""
        return request.status == OK and request.server == self.host and self.begin <= request.end <= self.end


@dataclass
class Excuses:
    """What the troubles so far excuse: `dying` are the spans from a SIGKILL until the process was gone.

    `unstored` are those whose counts may not have reached the database, `unscraped` those that Prometheus may not have
    seen.
    """

    dying: list[Span] = field(default_factory=list)
    unstored: list[Span] = field(default_factory=list)
    unscraped: list[Span] = field(default_factory=list)

    def began(self, host: str, at: float) -> None:
        """Excuse what a process that answers from `at` on counts before its first scrape."""
        self.unscraped.append(Span(host, at, at + SCRAPED_SECONDS))

    def killed(self, host: str, sent: float, gone: float) -> None:
        """Excuse what a process loses that got SIGKILL at `sent` and was gone at `gone`."""
        self.dying.append(Span(host, sent, gone))
        self.unstored.append(Span(host, sent - STORED_SECONDS, gone))
        self.unscraped.append(Span(host, sent - SCRAPED_SECONDS, gone))

    def lost(self, requests: Iterable[Answered]) -> tuple[list[Answered], list[Answered]]:
        """Return the requests without an answer: those that were in flight when a host was killed, and the others."""
        failed = [request for request in requests if request.status != OK]
        excused = [
            request
            for request in failed
            if any(_overlap(request, span) and _from(request, span) for span in self.dying)
        ]
        return excused, [request for request in failed if request not in excused]


def _overlap(request: Answered, span: Span) -> bool:
    return request.start <= span.end and request.end >= span.begin


def _from(request: Answered, span: Span) -> bool:
    """Return whether a failed request was, or may have been, at the host of `span`."""
    return request.server in ("", "<NOSRV>", span.host)


def answered(requests: Iterable[Answered]) -> Counter[str]:
    """Return the number of answered requests by bundle version."""
    return Counter(request.version for request in requests if request.status == OK)


def within(spans: Sequence[Span], requests: Iterable[Answered]) -> Counter[str]:
    """Return the number of answers given in any of the spans, by bundle version."""
    return answered(request for request in requests if any(span.served(request) for span in spans))


def since(requests: Iterable[Answered], version: str) -> float:
    """Return when a bundle version began to answer, in Unix seconds; 0 if it did not yet."""
    return min((request.end for request in requests if request.version == version), default=0.0)
