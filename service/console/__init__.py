"""The built-in web page: try the model, see what is served and how far it is from its teacher.

One HTML file with its style and script inline, so that it works in a network that reaches only this service.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()

_PAGE = files(__package__).joinpath("index.html").read_text(encoding="utf-8")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def console() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(_PAGE, headers=_HEADERS)
