"""A layer writes plain files into its folder, and nothing else anywhere."""

import gzip
import io
import tarfile

import pytest

from export.delivery.errors import DeliveryError
from export.delivery.unpack import unpack


def made(path, *members):
    """A tar of (name, type, content or the target of a link)."""
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "bundle").mkdir(parents=True)
    return tmp_path / "in" / "bundle"


@pytest.mark.parametrize("compressed", [False, True])
def test_files_at_the_top_are_written_compressed_or_not(tmp_path, folder, compressed):
    tar = made(
        tmp_path / "tar",
        ("./", tarfile.DIRTYPE, b""),
        ("./model.onnx", tarfile.REGTYPE, b"model"),
        ("CARD.md", tarfile.REGTYPE, b"card"),
    )
    if compressed:
        tar.write_bytes(gzip.compress(tar.read_bytes()))
    unpack(tar, folder, "oci://x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model.onnx": b"model", "CARD.md": b"card"}


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("../outside", tarfile.REGTYPE, b"x"),
        ("./../outside", tarfile.REGTYPE, b"x"),
        ("/outside", tarfile.REGTYPE, b"x"),
        ("sub/model.onnx", tarfile.REGTYPE, b"x"),
        ("sub", tarfile.DIRTYPE, b""),
        (".hidden", tarfile.REGTYPE, b"x"),
        ("model.onnx", tarfile.SYMTYPE, b"/etc/hostname"),
        ("model.onnx", tarfile.LNKTYPE, b"CARD.md"),
        ("model.onnx", tarfile.FIFOTYPE, b""),
    ],
)
def test_anything_else_is_refused(tmp_path, folder, name, kind, content):
    tar = made(tmp_path / "tar", (name, kind, content))
    with pytest.raises(DeliveryError, match=r"oci://x: holds '.*', which is no plain file at its top"):
        unpack(tar, folder, "oci://x")
    assert not list(folder.iterdir())
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8bno gzip" * 100])
def test_what_is_no_tar_is_told(tmp_path, folder, content):
    (tmp_path / "tar").write_bytes(content)
    with pytest.raises(DeliveryError, match="oci://x: a layer is no tar"):
        unpack(tmp_path / "tar", folder, "oci://x")


def test_a_tar_that_ends_early_is_told(tmp_path, folder):
    tar = made(tmp_path / "tar", ("model.onnx", tarfile.REGTYPE, b"x" * 5000))
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(DeliveryError, match="oci://x: a layer is no tar"):
        unpack(tar, folder, "oci://x")
