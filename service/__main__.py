"""`python -m service`: serve the bundle that the environment names."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Serve; a start that is refused is told in one line on standard error and ends with status 1."""
    gc.disable()  # what is imported stays, and is not searched for garbage until the server enables it again
    _import_structlog()
    from service.errors import StartupError
    from service.serve import serve
    from service.settings import load_settings

    try:
        serve(load_settings())
    except StartupError as error:
        sys.exit(f"reflux refuses to start: {error}")


def _import_structlog() -> None:
    """Import it without rich, which it takes for tracebacks on a terminal and which is slow to import."""
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # as the import system has it: there is none
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


if __name__ == "__main__":
    main()
