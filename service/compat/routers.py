"""The routers of all protocols."""

from __future__ import annotations

from fastapi import APIRouter

from service.compat import clouds, huggingface, kserve_v1, vllm
from service.compat.open_inference import routes as open_inference
from service.settings import Settings


def create_routers(settings: Settings) -> list[APIRouter]:
    """Return one router per protocol."""
    return [protocol.create_router(settings) for protocol in (huggingface, clouds, kserve_v1, open_inference, vllm)]
