"""The Python client: what production systems import to call Reflux. Needs httpx and nothing else of ours.

with Client("http://reflux:8080") as client:
    print(client.classify("where is my parcel?").results[0].label)
"""

from service.client.answers import Classification, RefluxError, Result, Score
from service.client.calls import Retry, Variant
from service.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Classification", "Client", "RefluxError", "Result", "Retry", "Score", "Variant"]
