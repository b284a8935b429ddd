"""The built-in web page: may the student stay, why, how far it is from its teacher, and what it answers.

The page, its style and its modules are files of this package and of `vendor`, served as they are, so that it works in a
network that reaches only this service. There is no build step.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from service.errors import NotFoundError

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def _assets() -> dict[str, tuple[bytes, str]]:
    """Return the content and the media type of each asset, by name."""

    def found(folder: Traversable) -> dict[str, tuple[bytes, str]]:
        kinds = {file.name: file.name[file.name.rfind(".") :] for file in folder.iterdir() if file.is_file()}
        return {
            name: (folder.joinpath(name).read_bytes(), _TYPES[kind]) for name, kind in kinds.items() if kind in _TYPES
        }

    here = files(__package__)
    return found(here) | found(here.joinpath("vendor"))


ASSETS = _assets()
VERSION = hashlib.sha256(b"".join(name.encode() + ASSETS[name][0] for name in sorted(ASSETS))).hexdigest()[:12]
"""Changes with any asset: it is part of their addresses, so that a browser may keep them."""

_PAGE = files(__package__).joinpath("index.html").read_text(encoding="utf-8").replace("$VERSION", VERSION)

router = APIRouter(include_in_schema=False)


@router.get("/")
async def console() -> HTMLResponse:
    """Return the page. Its links are relative, because a gateway may serve it under another path."""
    return HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY, "cache-control": "no-cache"})


@router.get("/console/{version}/{name}")
async def asset(version: str, name: str) -> Response:
    """Return an asset of the page.

    Another version than ours is that of another replica, whose page the browser has: it gets ours, and keeps it not.
    """
    if name not in ASSETS:
        raise NotFoundError("the console has no such asset")
    content, kind = ASSETS[name]
    keep = "public, max-age=31536000, immutable" if version == VERSION else "no-store"
    return Response(content, media_type=kind, headers={"cache-control": keep, "x-content-type-options": "nosniff"})
