"""The image depends on the content alone, and its layers are tars that hold a file each."""

import os
import shutil
import tarfile

from export.bundle.format import CARD, MANIFEST, Bundle
from export.delivery.image import Image, Layer
from tests.support.tiny_bundle import rewritten


def test_the_digest_depends_on_nothing_but_the_content(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "of another name")
    for path in copy.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (copy / "stage.json").write_text("{}")  # not listed in the manifest
    assert Image.of(Bundle.open(copy)).digest == Image.of(tiny_bundle).digest


def test_another_content_has_another_digest(tiny_bundle, tmp_path):
    other = rewritten(tiny_bundle, tmp_path / "other", {CARD: b"# another\n"})
    assert Image.of(other).digest != Image.of(tiny_bundle).digest
    files = len(tiny_bundle.manifest.files) + 1
    digests = {layer.digest for image in (Image.of(other), Image.of(tiny_bundle)) for layer in image.layers}
    assert len(digests) == files + 2  # the card and the manifest; all other layers are shared


def test_the_bytes_of_a_layer_do_not_change_between_versions(tmp_path):
    (tmp_path / "CARD.md").write_bytes(b"# a card\n")
    layer = Layer.of(tmp_path, "CARD.md")
    assert (layer.digest, layer.size) == (
        "sha256:e50bbb4a788d4721d1b07d8abece9a995291f2f487ec80b84ffee7fa25fac00f",
        2048,
    )


def test_a_layer_is_a_tar_of_its_file(tiny_bundle, tmp_path):
    for layer in Image.of(tiny_bundle).layers:
        (tmp_path / "layer.tar").write_bytes(b"".join(layer.chunks()))
        assert (tmp_path / "layer.tar").stat().st_size == layer.size
        with tarfile.open(tmp_path / "layer.tar", "r:") as archive:
            (member,) = archive.getmembers()
            assert (member.name, member.mode, member.uid, member.mtime) == (layer.name, 0o644, 0, 0)
            assert archive.extractfile(member).read() == (layer.folder / layer.name).read_bytes()


def test_every_file_has_a_layer(tiny_bundle):
    names = [layer.name for layer in Image.of(tiny_bundle).layers]
    assert names == sorted([MANIFEST, *tiny_bundle.manifest.files])
