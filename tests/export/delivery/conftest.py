"""Places for bundles, started once for all tests: a registry, an S3, and no waiting between attempts."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from tests.support.registry import registry


@pytest.fixture(scope="package")
def registry_address(tmp_path_factory):
    """The address, `host:port`, of a registry without logins."""
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="package")
def bucket():
    """The address of a bucket in a moto server, `s3://NAME`."""
    server_module = pytest.importorskip("moto.server", reason="there is no moto (pip install 'moto[server]')")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bundles")
        yield "s3://bundles"
    server.stop()


@pytest.fixture(params=["registry", "folder", "s3", "memory"])
def place(request, tmp_path):
    """An address of each kind of place, at which nothing is yet."""
    name = f"tickets-{uuid.uuid4().hex[:8]}"
    if request.param == "registry":
        return f"oci://{request.getfixturevalue('registry_address')}/team/{name}:v1"
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}/v1"
    return f"memory://{name}/v1" if request.param == "memory" else str(tmp_path / "shelf" / name)


@pytest.fixture(autouse=True)
def waits(monkeypatch, tmp_path):
    """The seconds that were waited between attempts, without waiting; and no login of the machine's user."""
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return slept
