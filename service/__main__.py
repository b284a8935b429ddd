"""`python -m service`: serve the bundle that the environment names."""

from __future__ import annotations

import sys

from service.errors import StartupError
from service.server import serve
from service.settings import load_settings


def main() -> None:
    """Serve; a start that is refused is told in one line on standard error and ends with status 1."""
    try:
        serve(load_settings())
    except StartupError as error:
        sys.exit(f"reflux refuses to start: {error}")


if __name__ == "__main__":
    main()
