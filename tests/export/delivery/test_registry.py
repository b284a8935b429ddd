"""A registry that fails, wants a login or damages what it sends: retried where that helps, told where it does not."""

from __future__ import annotations

import json
import re

import pytest

from export.bundle.format import MODEL
from export.delivery.address import Address
from export.delivery.errors import DeliveryError
from export.delivery.image import Image, Layer
from export.delivery.transfer import pull, push
from tests.support.registry import PASSWORD, USER, Fault, basic, password_file, proxy, registry
from tests.support.sockets import dead_address
from tests.support.token_server import REFRESH_TOKEN, token_server


@pytest.fixture
def before(registry_address):
    """A proxy before the registry that fails as the test says."""
    with proxy(registry_address) as made:
        yield made


@pytest.fixture
def place(before, tiny_bundle):
    """The address, through the proxy, of `tiny_bundle`, which was pushed."""
    address = f"oci://{before.address}/faulty:v1"
    push(tiny_bundle.path, address)
    before.requests.clear()
    return address


@pytest.fixture
def model(tiny_bundle):
    """The layer of the graph, the largest."""
    return Layer.of(tiny_bundle.path, MODEL)


def in_environment(monkeypatch, tmp_path, password=PASSWORD):
    (tmp_path / "password").write_text(f"{password}\n")
    monkeypatch.setenv("REFLUX_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("REFLUX_REGISTRY_PASSWORD_FILE", str(tmp_path / "password"))


def in_docker(tmp_path, config):
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps(config))


def test_layers_that_the_registry_has_are_not_sent_again(before, place, tiny_bundle):
    push(tiny_bundle.path, place)
    assert not [request for request in before.requests if request.startswith(("POST", "PUT /v2/faulty/blobs"))]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_registry_is_asked_again(before, place, tiny_bundle, tmp_path, status, waits):
    before.faults = [Fault("GET", "/manifests/v1", 2, status), Fault("GET", "/blobs/", 2, status)]
    assert pull(place, tmp_path / "bundle").digest == Image.of(tiny_bundle).digest
    assert len(waits) == 4


def test_the_registry_says_how_long_to_wait(before, place, tmp_path, waits):
    before.faults = [Fault("GET", "/manifests/v1", 1, 429, {"Retry-After": "7"})]
    pull(place, tmp_path / "bundle")
    assert len(waits) == 1
    assert 7 <= waits[0] < 8


def test_a_registry_that_stays_busy_is_told(before, place, tmp_path, waits):
    before.faults = [Fault("GET", "/manifests/v1", 99, 503)]
    with pytest.raises(DeliveryError, match=r"/faulty: the registry answered 503; try again later"):
        pull(place, tmp_path / "bundle")
    assert len(waits) == 4
    assert waits == sorted(waits)


def test_an_upload_is_tried_again(before, tiny_bundle, tmp_path, waits):
    before.faults = [
        Fault("POST", "/blobs/uploads/", 1, 500),
        Fault("PUT", "/blobs/uploads/", 1, drop=True),
        Fault("PUT", "/manifests/", 1, 503),
    ]
    pushed = push(tiny_bundle.path, f"oci://{before.address}/retried:v1")
    assert len(waits) == 3
    assert pull(f"oci://{before.address}/retried:v1", tmp_path / "bundle").digest == pushed.digest


def test_a_broken_download_goes_on_where_it_ended(before, place, model, tmp_path):
    before.faults = [Fault("GET", model.digest, change=lambda content: content[:1000])]
    pull(place, tmp_path / "bundle")
    path = f"GET /v2/faulty/blobs/{model.digest}"
    assert [request for request in before.requests if model.digest in request] == [path, f"{path} bytes=1000-"]


def test_a_blob_that_stays_short_is_told_and_the_old_bundle_stays(before, place, model, bundle_copy, tmp_path):
    (bundle_copy / MODEL).write_bytes(b"old")  # not whole, so that it is pulled
    before.faults = [Fault("GET", model.digest, 99, change=lambda content: b"")]
    with pytest.raises(DeliveryError, match=r"the registry does not answer: .*|ended after 0 of"):
        pull(place, bundle_copy)
    assert (bundle_copy / MODEL).read_bytes() == b"old"
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_damaged_blob_is_refused(before, place, model, tmp_path):
    before.faults = [Fault("GET", model.digest, change=lambda content: content[:-1] + b"!")]
    with pytest.raises(DeliveryError, match=rf"what arrived as {model.digest} has another hash"):
        pull(place, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_damaged_manifest_is_refused(before, place, tiny_bundle, tmp_path):
    before.faults = [Fault("GET", "/manifests/", change=lambda content: content.replace(b"tiny", b"tinu"))]
    with pytest.raises(DeliveryError, match=r"the manifest that arrived is sha256:\w+, not sha256:\w+"):
        pull(place, tmp_path / "bundle", digest=Image.of(tiny_bundle).digest)


def test_a_registry_that_goes_away_in_the_middle_is_told(before, place, model, bundle_copy, tiny_bundle, tmp_path):
    (bundle_copy / "CARD.md").unlink()
    left = sorted(path.name for path in bundle_copy.iterdir())
    before.faults = [Fault("GET", model.digest, 99, drop=True)]
    with pytest.raises(DeliveryError, match=r"the registry does not answer: .*; is 127\.0\.0\.1:\d+ right, and up\?"):
        pull(place, bundle_copy)
    assert sorted(path.name for path in bundle_copy.iterdir()) == left
    before.faults = []
    assert pull(place, bundle_copy).new  # and the next attempt succeeds


def test_a_registry_that_is_not_there_is_told(tmp_path, waits):
    with pytest.raises(DeliveryError, match=r"the registry does not answer: .*Connection refused"):
        pull(f"oci://{dead_address()}/tickets:v1", tmp_path / "bundle")
    assert len(waits) == 4


def test_a_bundle_that_is_not_there_is_told_at_once(registry_address, tmp_path, waits):
    for reference in ("v1", "sha256:" + "0" * 64):
        sign = "@" if ":" in reference else ":"
        with pytest.raises(DeliveryError, match=f"none: has no {reference}; push it with `reflux push`"):
            pull(f"oci://{registry_address}/none{sign}{reference}", tmp_path / "bundle")
    assert not waits


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "answered 403; use a login that may read it"), (404, "answered 404; is this the address of a registry")],
)
def test_a_refusal_is_told_at_once(before, place, model, tmp_path, waits, status, message):
    before.faults = [Fault("GET", model.digest, 1, status)]
    with pytest.raises(DeliveryError, match=message):
        pull(place, tmp_path / "bundle")
    assert not waits


def test_what_the_registry_says_is_told(before, tiny_bundle):
    before.faults = [Fault("PUT", "/blobs/uploads/", spoil=True)]
    with pytest.raises(DeliveryError, match=r"answered 400 \(DIGEST_INVALID: .*\); is this a registry\?"):
        push(tiny_bundle.path, f"oci://{before.address}/refused:v1")


def test_an_index_and_an_artifact_are_told(before, place, tmp_path):
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    artifact = json.dumps(
        {"layers": [{"mediaType": "application/x-gguf", "digest": "sha256:" + "0" * 64, "size": 1}]}
    ).encode()
    for content, message in (
        (index, "is an index of several images; name the digest"),
        (artifact, "has a layer of type 'application/x-gguf', read are tars"),
        (b"[]", "no JSON object"),
        (b"<html>", "is not JSON"),
        (b"{}", "no manifest of an image"),
    ):
        before.faults = [Fault("GET", "/manifests/", content=content)]
        with pytest.raises(DeliveryError, match=message):
            pull(place, tmp_path / "bundle")


@pytest.fixture
def guarded(tmp_path):
    """The address of a registry with a password."""
    (tmp_path / "guarded").mkdir()
    with registry(tmp_path / "guarded", password_file(tmp_path)) as address:
        yield address


def test_a_registry_with_a_password(guarded, tiny_bundle, tmp_path, monkeypatch):
    place = f"oci://{guarded}/team/tickets:v1"
    with pytest.raises(DeliveryError, match="the registry wants a login; set REFLUX_REGISTRY_USERNAME"):
        push(tiny_bundle.path, place)
    in_environment(monkeypatch, tmp_path, "wrong")
    with pytest.raises(DeliveryError, match="the registry does not accept the login"):
        push(tiny_bundle.path, place)
    in_environment(monkeypatch, tmp_path)
    pushed = push(tiny_bundle.path, place)
    for name in ("REFLUX_REGISTRY_USERNAME", "REFLUX_REGISTRY_PASSWORD_FILE"):
        monkeypatch.delenv(name)
    in_docker(tmp_path, {"auths": {guarded: {"auth": basic()}}})
    assert pull(place, tmp_path / "bundle").digest == pushed.digest


def test_a_registry_with_a_token_server(tiny_bundle, tmp_path, monkeypatch):
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens.auth) as address:
        place = f"oci://{address}/team/tickets:v1"
        with pytest.raises(DeliveryError, match="wants a login"):
            push(tiny_bundle.path, place)
        in_environment(monkeypatch, tmp_path)
        pushed = push(tiny_bundle.path, place)
        assert pull(place, tmp_path / "bundle").digest == pushed.digest
        assert tokens.scopes[-1] == "repository:team/tickets:pull"  # no more than it needs
        monkeypatch.delenv("REFLUX_REGISTRY_USERNAME")
        monkeypatch.delenv("REFLUX_REGISTRY_PASSWORD_FILE")
        in_docker(tmp_path, {"auths": {address: {"identitytoken": REFRESH_TOKEN}}})
        assert pull(place, tmp_path / "again").digest == pushed.digest


def test_a_login_goes_to_no_other_host(registry_address, tiny_bundle, tmp_path, monkeypatch):
    """Downloads are redirected to object stores, to which the registry's login is no business."""
    place = f"oci://{registry_address}/elsewhere:v1"
    push(tiny_bundle.path, place)
    in_environment(monkeypatch, tmp_path)
    with proxy(registry_address) as store, proxy(registry_address) as front:
        layers = Image.of(tiny_bundle).layers
        front.faults = [
            Fault("GET", "/manifests/", 1, 401, {"WWW-Authenticate": 'Basic realm="x"'}),
            *(
                Fault(
                    "GET",
                    layer.digest,
                    1,
                    307,
                    {"Location": f"http://{store.address}/v2/elsewhere/blobs/{layer.digest}"},
                )
                for layer in layers
            ),
        ]
        pull(f"oci://{front.address}/elsewhere:v1", tmp_path / "bundle")
    assert len(store.headers) == len(layers)
    assert not any("authorization" in headers for headers in store.headers)
    assert all(headers["authorization"] == f"Basic {basic()}" for headers in front.headers[1:])


def test_a_login_goes_to_no_other_host_with_an_upload_either(registry_address, tiny_bundle, tmp_path, monkeypatch):
    in_environment(monkeypatch, tmp_path)
    with proxy(registry_address) as store, proxy(registry_address) as front:
        front.faults = [
            Fault("HEAD", "/blobs/", 1, 401, {"WWW-Authenticate": 'Basic realm="x"'}),
            Fault("POST", "/blobs/uploads/", 1, 202, {"Location": f"http://{store.address}/v2/upload/blobs/uploads/1"}),
        ]
        store.faults = [Fault("PUT", "/blobs/uploads/1", 1, 201)]
        with pytest.raises(DeliveryError):  # the registry lacks the blob that went elsewhere
            push(tiny_bundle.path, f"oci://{front.address}/upload:v1")
    assert [sorted({"authorization"} & headers.keys()) for headers in store.headers] == [[]]
    assert all("authorization" in headers for headers in front.headers[1:])


def test_a_login_goes_to_no_token_server_without_tls(before, place, tmp_path, monkeypatch):
    in_environment(monkeypatch, tmp_path)
    challenge = 'Bearer realm="http://tokens.example/token",service="x"'
    secure = Address("registry.example", "tickets", "v1", None, plain=False)
    from export.delivery.credentials import login_for
    from export.delivery.tokens import authorization

    with pytest.raises(DeliveryError, match="would get the login without TLS"):
        authorization(None, [challenge], login_for("registry.example"), secure, write=False)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("oci://registry.example/team/tickets:v1", "https://registry.example/v2/team/tickets"),
        ("oci://registry.example:5000/tickets", "https://registry.example:5000/v2/tickets"),
        ("oci://localhost:5000/tickets:v1", "http://localhost:5000/v2/tickets"),
        ("oci://[::1]:5000/tickets:v1", "http://[::1]:5000/v2/tickets"),
        ("oci+http://registry.cluster:5000/tickets:v1", "http://registry.cluster:5000/v2/tickets"),
        ("oci://docker.io/me/tickets:v1", "https://registry-1.docker.io/v2/me/tickets"),
    ],
)
def test_addresses(text, url):
    assert Address.parse(text).url == url


@pytest.mark.parametrize(
    "text", ["oci://", "oci://registry.example", "oci://r.example/Tickets:v1", "oci://r.example/a:b:c"]
)
def test_what_is_no_address_is_told(text):
    with pytest.raises(DeliveryError, match=re.escape(text) + ": no address in a registry; write oci://HOST"):
        Address.parse(text)
