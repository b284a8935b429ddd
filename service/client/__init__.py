"""The former place of the Python client, which is the distribution `reflux-client`. It goes with the next release."""

import warnings

try:
    from reflux_client import AsyncClient, Classification, Client, RefluxError, Result, Retry, Score, Variant
except ImportError as error:
    raise ImportError("the Python client is the distribution reflux-client now: pip install reflux-client") from error

__all__ = ["AsyncClient", "Classification", "Client", "RefluxError", "Result", "Retry", "Score", "Variant"]

warnings.warn("import reflux_client instead of service.client", DeprecationWarning, stacklevel=2)
