"""Sign in to a registry: answer the challenge of a 401 with the header that the next request is to have."""

from __future__ import annotations

from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import httpx

from export.delivery.address import Address, is_loopback
from export.delivery.credentials import PASSWORD_FILE, USERNAME, Login
from export.delivery.errors import DeliveryError, TransientError

_UNAUTHORIZED = (400, 401, 403)  # token servers differ


def authorization(
    client: httpx.Client, challenges: list[str], login: Login | None, address: Address, *, write: bool
) -> str:
    """Return the value of `Authorization` that a registry's challenges (`WWW-Authenticate`) ask for.

    Raises DeliveryError when the login is missing or refused, and httpx.HTTPError when the token server fails.
    """
    for scheme, _, rest in (challenge.partition(" ") for challenge in challenges):
        if scheme.lower() == "bearer":
            return f"Bearer {_token(client, parse_keqv_list(parse_http_list(rest)), login, address, write=write)}"
        if scheme.lower() == "basic" and login is not None and login.username:
            return login.basic
    raise needs_login(address, login)


def needs_login(address: Address, login: Login | None) -> DeliveryError:
    """Return the error for a registry that wants a login, or another one."""
    problem = "wants a login" if login is None else "does not accept the login"
    return DeliveryError(
        f"{address.name}: the registry {problem}; set {USERNAME} and {PASSWORD_FILE}, or `docker login {address.host}`"
    )


def _token(
    client: httpx.Client, challenge: dict[str, str], login: Login | None, address: Address, *, write: bool
) -> str:
    realm = challenge.get("realm", "")
    if login is not None and not (realm.startswith("https://") or address.plain or is_loopback(httpx.URL(realm).host)):
        raise DeliveryError(
            f"{address.name}: its token server, {realm!r}, would get the login without TLS; tell its owner"
        )
    actions = "pull,push" if write else "pull"
    query = {"scope": challenge.get("scope") or f"repository:{address.repository}:{actions}"}
    if service := challenge.get("service"):
        query["service"] = service
    if login is not None and login.refresh_token:
        form = {**query, "grant_type": "refresh_token", "client_id": "reflux", "refresh_token": login.refresh_token}
        response = client.post(realm, data=form)
    else:
        response = client.get(realm, params=query, headers={} if login is None else {"authorization": login.basic})
    if response.status_code in _UNAUTHORIZED:
        raise needs_login(address, login)
    if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise TransientError(
            f"{address.name}: its token server, {realm}, answered {response.status_code}; try again later"
        )
    return _token_in(response, address)


def _token_in(response: httpx.Response, address: Address) -> str:
    try:
        body: Any = response.json()
        return str(body.get("token") or body["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise DeliveryError(
            f"{address.name}: its token server, {response.url}, gave no token; tell its owner"
        ) from error
