"""`GET /docs`: the routes of this service in a browser, to be read and tried.

The page and all that it loads come from here, so that it works where nothing but this service can be reached.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from service.errors import NotFoundError

_PARTS = _SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(prefix="/docs", include_in_schema=False)


@router.get("")
async def page() -> HTMLResponse:
    """Return the page. What it loads is named relative to it, for it may be seen under another address."""
    response = get_swagger_ui_html(
        title="Reflux",
        openapi_url="openapi.json",
        swagger_js_url=f"docs/{_SCRIPT}",
        swagger_css_url=f"docs/{_STYLE}",
        swagger_favicon_url=f"docs/{_ICON}",
        swagger_ui_parameters={"validatorUrl": None},  # it would show the document to a server elsewhere
    )
    response.headers["content-security-policy"] = _POLICY
    return response


@router.get("/{name}")
async def part(name: str) -> FileResponse:
    """Return what the page loads."""
    if name not in _PARTS:
        raise NotFoundError(f"there is no such part of /docs; there are {', '.join(_PARTS)}")
    return FileResponse(Path(str(files("fastapi_swagger"))) / "resources" / name)
