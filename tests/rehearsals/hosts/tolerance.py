"""What trouble excuses, exactly: which requests may fail, and which counts may be missing. All else is a defect. Pure.

A process that is killed takes with it what it was doing, what it had counted and not stored yet, and what Prometheus
had not scraped yet. Nothing else excuses anything: not a cut link, not an orderly stop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.rehearsals.hosts.load import OK, Answered

STORED_SECONDS = 1.0
"""A killed process may have counted requests of so long before without having stored their counts: `flush_seconds`,
0.25, and the time for writing. On a busy machine, where requests wait, writing waits as long as the slowest of them."""

BUSY_SECONDS = 5.0
"""How long before a kill a request counts for that."""

SCRAPE_SECONDS = 1.0
"""The longest that a scrape takes after the time that Prometheus gives it."""


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
    """What the troubles so far excuse.

    `dying` are the spans from a SIGKILL until the process was gone, `starts` the hosts and times of new processes.
    """

    dying: list[Span] = field(default_factory=list)
    starts: list[tuple[str, float]] = field(default_factory=list)

    def unstored(self, requests: Sequence[Answered]) -> list[Span]:
        """Return the spans in which killed processes may have counted what did not reach the database."""
        found = []
        for span in self.dying:
            last = (one for one in requests if one.end >= span.begin - BUSY_SECONDS and one.start <= span.end)
            slowest = max((one.end - one.start for one in last), default=0.0)
            found.append(Span(span.host, span.begin - STORED_SECONDS - slowest, span.end))
        return found

    def unscraped(self, scrapes: Mapping[str, Sequence[float]]) -> list[Span]:
        """Return the spans whose counts Prometheus may not have seen, with the times of its `scrapes` by host.

        These are from the last scrape of a killed process to its end, and from a start to the first scrape.
        """
        found = []
        for span in self.dying:
            before = [at for at in scrapes.get(span.host, ()) if at <= span.begin]
            found.append(Span(span.host, max(before, default=0.0), span.end))
        for host, start in self.starts:
            after = [at for at in scrapes.get(host, ()) if at >= start]
            found.append(Span(host, start, min(after, default=math.inf) + SCRAPE_SECONDS))
        return found

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
