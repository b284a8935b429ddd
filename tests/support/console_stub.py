"""The console over bodies that a test sets: `ConsoleStub` answers as a service in one of `gap_bodies.STATES` does."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

from service import console
from tests.support import gap_bodies


class ConsoleStub:
    """A handler for `http_server.serving`. Change its attributes to change what it answers from then on.

    `failing` maps a path to what is answered there instead; `candidate` is the state of the candidate, if there is one.
    """

    def __init__(self, state: str = "calm", *, candidate: str | None = None) -> None:
        self.state = state
        self.candidate = candidate
        self.failing: dict[str, httpx.Response] = {}
        self.changed: dict[str, Any] = {}
        """Keys of the body of `/gap` with other values than the state's."""

        self.process: dict[str, bool] | None = None
        """What `GET /model` says of its process; an earlier version's says nothing."""

        self.model: dict[str, Any] = {}
        """Keys of the body of `/model` with other values."""

        self.asked: list[str] = []
        """Each path with its query, in order."""

        app = FastAPI()
        app.include_router(console.router)
        self._page = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stub")

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        path = request.url.path
        self.asked.append(request.url.raw_path.decode())
        if path in self.failing:
            return self.failing[path]
        if path == "/" or path.startswith("/console/"):
            return await self._page.get(path)
        state = self.candidate if request.url.params.get("variant") == "candidate" else self.state
        window = request.url.params.get("window", "since")
        if state is None:
            return refusal(422, "there is no variant 'candidate'; there is stable")
        match path:
            case "/gap":
                return httpx.Response(200, json=self._gap(state, window, request.url.params.get("variant")))
            case "/gap/history":
                return httpx.Response(200, json=gap_bodies.history_body(state, window))
            case "/gap/disagreements":
                return httpx.Response(200, json=gap_bodies.disagreements_body(state))
            case "/model":
                return httpx.Response(200, json=self._model(request.url.params.get("variant")))
            case "/classify":
                return httpx.Response(200, json=_ANSWER)
            case "/gap/ask":
                return httpx.Response(200, json=_TEACHER)
        return refusal(404, f"there is no path {path}")

    def _gap(self, state: str, window: str, variant: str | None) -> dict[str, Any]:
        body = gap_bodies.gap_body(state, variant=variant or "stable")
        return body | {"window": window} | self.changed

    def _model(self, asked: str | None) -> dict[str, Any]:
        variants = {"stable": {"version": gap_bodies.VERSION, "share": 1.0}}
        if self.candidate is not None:
            variants = {
                "stable": {"version": gap_bodies.VERSION, "share": 0.9},
                "candidate": {"version": gap_bodies.CANDIDATE, "share": 0.1},
            }
        process = {} if self.process is None else {"process": self.process}
        chosen = {"variants": variants, "version": variants[asked or "stable"]["version"]}
        return gap_bodies.model_body() | chosen | process | self.model


def refusal(status: int, message: str) -> httpx.Response:
    """Return an error in the service's shape."""
    return httpx.Response(status, json={"error": {"code": "no", "message": message, "request_id": "1"}})


_TEACHER = {
    "text": "where is the refund of <EMAIL>",
    "outcome": "completed",
    "top": [{"label": "billing", "score": 0.81}, {"label": "refund", "score": 0.19}],
    "cost_usd": 0.0009,
}
_ANSWER = {
    "request_id": "1",
    "model": "support-desk",
    "version": gap_bodies.VERSION,
    "results": [
        {
            "label": "refund",
            "score": 0.912,
            "top": [{"label": "refund", "score": 0.912}, {"label": "billing", "score": 0.07}],
            "tokens": 14,
            "truncated": False,
        }
    ],
}
