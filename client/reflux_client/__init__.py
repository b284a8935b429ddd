"""The Python client of Reflux. It needs httpx alone.

with Client("http://reflux:8080") as client:
    print(client.classify("where is my parcel?").results[0].label)
"""

from reflux_client.answers import Classification, RefluxError, Result, Score
from reflux_client.calls import Retry, Variant
from reflux_client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Classification", "Client", "RefluxError", "Result", "Retry", "Score", "Variant"]
