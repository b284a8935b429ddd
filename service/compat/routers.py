"""The routes of all protocols that have some."""

from __future__ import annotations

from fastapi import APIRouter

from service.compat import clouds, huggingface, kserve_v1, open_inference, vllm
from service.settings import Settings


def create_routers(settings: Settings) -> list[APIRouter]:
    """Make the routes of all protocols."""
    return [protocol.create_router(settings) for protocol in (huggingface, clouds, kserve_v1, open_inference, vllm)]
