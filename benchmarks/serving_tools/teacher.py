"""A slow teacher on this machine: OpenAI's chat API with one fixed answer after some seconds."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from labelling import Chat, processes

from distill.teachers.prompting.label_codes import label_codes

_SLOTS = 1024


def reply(classes: int) -> bytes:
    """Return a response whose likeliest tokens are the codes of the first labels."""
    names = label_codes(classes)[:20]
    logprobs = [math.log(0.9 / 2 ** (rank + 1)) for rank in range(len(names))]
    top = [{"token": name, "logprob": logprob} for name, logprob in zip(names, logprobs, strict=True)]
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": names[0]},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
    }
    content = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def serve(listener: socket.socket, seconds: float, classes: int) -> None:
    """Answer until the process is killed."""

    async def run() -> None:
        free = asyncio.Semaphore(_SLOTS)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Chat(reply(classes), seconds, free), sock=listener)
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def fake_teacher(seconds: float, classes: int) -> Iterator[str]:
    """Start a teacher in a process on this one's core, yield its base URL, and kill it at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(_SLOTS)
        process = processes.Process(target=serve, args=(listener, seconds, classes), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            process.kill()
            process.join()
