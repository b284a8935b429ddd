"""`GET /docs`: Swagger UI for this service, to read about its routes and to try them.

The page and its assets are served from here, so that it works in a network that reaches nothing else.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from service.errors import NotFoundError

_ASSETS = _SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(prefix="/docs", include_in_schema=False)


@router.get("")
async def page() -> HTMLResponse:
    """Return the page. Its links are relative, because a gateway may serve it under another path."""
    response = get_swagger_ui_html(
        title="Reflux",
        openapi_url="openapi.json",
        swagger_js_url=f"docs/{_SCRIPT}",
        swagger_css_url=f"docs/{_STYLE}",
        swagger_favicon_url=f"docs/{_ICON}",
        swagger_ui_parameters={"validatorUrl": None},  # the default sends the document to another server
    )
    response.headers["content-security-policy"] = _POLICY
    return response


@router.get("/{name}")
async def asset(name: str) -> FileResponse:
    """Return an asset of the page."""
    if name not in _ASSETS:
        raise NotFoundError(f"/docs has no such asset; it has {', '.join(_ASSETS)}")
    return FileResponse(Path(str(files("fastapi_swagger"))) / "resources" / name)
