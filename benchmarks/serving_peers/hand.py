"""FastAPI and ONNX Runtime, as a team would write it by hand: the session runs in the `async def` itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from onnx_student import Student
from pydantic import BaseModel


class Body(BaseModel):
    """One text."""

    text: str


class Answer(BaseModel):
    """A label and its probability."""

    label: str
    score: float


def create_app(bundle: Path) -> FastAPI:
    """Return the app for a bundle."""
    student = Student(bundle)
    app = FastAPI()

    @app.post("/classify")
    async def classify(body: Body) -> Answer:
        ((label, score),) = student.classify([body.text])
        return Answer(label=label, score=score)

    return app


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(create_app(given.bundle), host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
