"""A signature holds for one key and one digest; a file that is no key is told."""

import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from export.delivery.errors import DeliveryError
from export.delivery.signature import Signature, new_keys, read_private_key, read_public_key

DIGEST, OTHER = f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"


def written(folder, key, password=None):
    """The files of a key's two halves."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "other").write_bytes(private)
    (folder / "other.pub").write_bytes(public)
    return folder / "other", folder / "other.pub"


@pytest.fixture(params=["ed25519", "p256"])
def keys(request, tmp_path):
    """The files of a private and of its public key, of each kind."""
    if request.param == "p256":
        return written(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    return tmp_path / "key", new_keys(tmp_path / "key")


def test_a_signature_holds_for_its_digest_and_its_key_alone(keys, tmp_path):
    private, public = read_private_key(keys[0]), read_public_key(keys[1])
    made = Signature.make(private, DIGEST, "registry.example/tickets")
    assert made.holds(public, DIGEST)
    assert not made.holds(public, OTHER)
    assert not made.holds(read_public_key(new_keys(tmp_path / "stranger")), DIGEST)
    assert not Signature(made.payload.replace(b"00", b"11"), made.value).holds(public, DIGEST)
    assert not Signature(made.payload, made.value[:-1] + b"?").holds(public, DIGEST)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"critical": {"type": "another", "image": {}}}'])
def test_a_signed_text_that_names_no_digest_is_no_signature(tmp_path, payload):
    public = read_public_key(new_keys(tmp_path / "key"))
    key = read_private_key(tmp_path / "key")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert not Signature(payload, key.sign(payload)).holds(public, DIGEST)


def test_a_new_key_is_for_its_owner_alone_and_overwrites_none(tmp_path):
    new_keys(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(DeliveryError, match="key: File exists; no key is overwritten"):
        new_keys(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_files_that_are_no_keys_are_told(tmp_path):
    (tmp_path / "text").write_text("no key")
    for read, remedy in ((read_private_key, "give an unencrypted PEM file"), (read_public_key, "give the public key")):
        for name in ("text", "missing"):
            with pytest.raises(DeliveryError, match=f"{name}: .*; {remedy}"):
                read(tmp_path / name)
    private, _ = written(tmp_path, ec.generate_private_key(ec.SECP256R1()), b"secret")
    with pytest.raises(DeliveryError, match="encrypted; give an unencrypted PEM file"):
        read_private_key(private)
    private, public = written(tmp_path, rsa.generate_private_key(65537, 2048))
    for read, path in ((read_private_key, private), (read_public_key, public)):
        with pytest.raises(DeliveryError, match="another kind than Ed25519 and ECDSA P-256"):
            read(path)


def test_no_key_is_made_beside_one_that_exists(tmp_path):
    for there in ("key", "key.pub"):
        (tmp_path / there).write_text("mine")
        with pytest.raises(DeliveryError, match=f"{there}: File exists; no key is overwritten"):
            new_keys(tmp_path / "key")
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(there, "mine")]
        (tmp_path / there).unlink()
