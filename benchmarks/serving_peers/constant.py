"""The lower bound of a FastAPI endpoint: our request body, validated with pydantic, and a constant answer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Self

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(pattern=r"\S")]


class Body(BaseModel):
    """The request body of our service: exactly one of `text` and `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1)] | None = None
    top_k: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give exactly one of `text` and `texts`")
        return self


class Answer(BaseModel):
    """A label and its probability."""

    label: str
    score: float


app = FastAPI()


@app.post("/classify")
async def classify(body: Body) -> Answer:
    """Return the constant answer."""
    return Answer(label="constant", score=1.0)


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="accepted like the others do, but not read")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(app, host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
