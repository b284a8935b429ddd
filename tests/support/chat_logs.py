"""Lines of logs of calls to a language model, as applications and gateways write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

INSTRUCTIONS = "You route the tickets of a shop. Answer with the name of one queue, as JSON."


def chat(text: str, answer: str, **more: Any) -> dict[str, Any]:
    """A request and a response of OpenAI's chat API, with 100 tokens read and 10 written."""
    request = {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"The ticket of a customer:\n<ticket>{text}</ticket>\nWhich queue?"},
        ],
    }
    response = {
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
    return {"request": request, "response": response, **more}


def write_log(path: Path, lines: Iterable[Mapping[str, Any] | str]) -> Path:
    """Write a log, a line each; a text is written as it is."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path
