"""The routers of all protocols."""

from __future__ import annotations

from fastapi import APIRouter

from service.compat import clouds, decisions, huggingface, kserve_v1, system_one, vllm
from service.compat.open_inference import routes as open_inference
from service.settings import Settings


def create_routers(settings: Settings) -> list[APIRouter]:
    """Return one router per protocol."""
    protocols = (huggingface, clouds, kserve_v1, open_inference, vllm, decisions, system_one)
    return [protocol.create_router(settings) for protocol in protocols]
