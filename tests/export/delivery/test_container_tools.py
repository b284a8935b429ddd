"""Container tools take a pushed bundle for the image that it is, and find its signature where cosign puts one."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tarfile

import pytest

from export.delivery.image import Image
from export.delivery.signature import new_keys
from export.delivery.transfer import pull, push

SKOPEO, OPENSSL = shutil.which("skopeo"), shutil.which("openssl")

pytestmark = pytest.mark.skipif(SKOPEO is None, reason="there is no skopeo (Debian: skopeo)")


def copy(source, target, *options):
    """Copy an image with skopeo, which stands on the library that CRI-O and Podman pull with."""
    insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    command = [SKOPEO, "--insecure-policy", "copy", *insecure, *options, source, target]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def read(folder):
    """The manifest of an image that was copied to `dir:`, and its layers."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest, [folder / layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]


def test_a_bundle_is_an_image_that_keeps_its_digest_in_another_repository(registry_address, tiny_bundle, tmp_path):
    pushed = push(tiny_bundle.path, f"oci://{registry_address}/plain:v1")
    here, there = (f"docker://{registry_address}/{name}:v1" for name in ("plain", "copied"))
    copy(here, there, "--preserve-digests")
    pull(f"oci://{registry_address}/copied:v1", tmp_path / "bundle", digest=pushed.digest)


def test_the_files_lie_at_the_top_of_the_layers(registry_address, tiny_bundle, tmp_path):
    push(tiny_bundle.path, f"oci://{registry_address}/plain:v1")
    copy(f"docker://{registry_address}/plain:v1", f"dir:{tmp_path / 'dir'}")
    found = {}
    for layer in read(tmp_path / "dir")[1]:
        with tarfile.open(layer) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    assert found == {path.name: path.read_bytes() for path in tiny_bundle.path.iterdir()}


def test_a_bundle_that_was_copied_with_compressed_layers_is_pulled(registry_address, tiny_bundle, tmp_path):
    push(tiny_bundle.path, f"oci://{registry_address}/plain:v1")
    copy(f"docker://{registry_address}/plain:v1", f"oci:{tmp_path / 'layout'}:v1")  # which compresses
    copy(f"oci:{tmp_path / 'layout'}:v1", f"docker://{registry_address}/compressed:v1")
    pulled = pull(f"oci://{registry_address}/compressed:v1", tmp_path / "bundle")
    assert Image.of(pulled.bundle).digest == Image.of(tiny_bundle).digest != pulled.digest


@pytest.mark.skipif(OPENSSL is None, reason="there is no openssl")
def test_a_signature_is_where_cosign_puts_it_and_openssl_verifies_it(registry_address, tiny_bundle, tmp_path):
    public = new_keys(tmp_path / "key")
    pushed = push(tiny_bundle.path, f"oci://{registry_address}/signed:v1", sign_key=tmp_path / "key")
    tag = f"{pushed.digest.replace(':', '-')}.sig"
    copy(f"docker://{registry_address}/signed:{tag}", f"dir:{tmp_path / 'dir'}")
    manifest, (payload,) = read(tmp_path / "dir")
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    assert json.loads(payload.read_text())["critical"] == {
        "identity": {"docker-reference": f"{registry_address}/signed"},
        "image": {"docker-manifest-digest": pushed.digest},
        "type": "cosign container image signature",
    }
    value = layer["annotations"]["dev.cosignproject.cosign/signature"]
    (tmp_path / "signature").write_bytes(base64.b64decode(value))
    verify = ["pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", payload]
    result = subprocess.run(
        [OPENSSL, *verify, "-sigfile", tmp_path / "signature"], capture_output=True, text=True, check=False
    )
    assert "Signature Verified Successfully" in result.stdout, result.stderr
