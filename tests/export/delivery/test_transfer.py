"""A bundle arrives as it left, from every kind of place, or the folder keeps what it had and the message says why."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from export.bundle.format import CARD, MANIFEST, MODEL, Bundle, BundleError
from export.bundle.verify import verify
from export.delivery.errors import DeliveryError
from export.delivery.image import Image
from export.delivery.signature import new_keys
from export.delivery.transfer import pull, push
from tests.support.disk import full_after
from tests.support.sockets import dead_address
from tests.support.tiny_bundle import build_cascade, rewritten


@pytest.fixture
def other(tiny_bundle, tmp_path):
    """A bundle like `tiny_bundle` with another card."""
    return rewritten(tiny_bundle, tmp_path / "other", {CARD: b"# another\n"})


@pytest.fixture
def key(tmp_path):
    """The file of a key that signs; its public half is `key.pub`."""
    new_keys(tmp_path / "key")
    return tmp_path / "key"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pub(key):
    return key.with_name(f"{key.name}.pub")


def test_what_is_pulled_is_what_was_pushed(place, tiny_bundle, tmp_path):
    pushed = push(tiny_bundle.path, place)
    pulled = pull(place, tmp_path / "deep" / "bundle", digest=pushed.digest)
    assert (pulled.digest, pulled.new) == (pushed.digest, True)
    assert contents(tmp_path / "deep" / "bundle") == contents(tiny_bundle.path)
    assert pulled.bundle == Bundle.open(tmp_path / "deep" / "bundle")


def test_the_digest_is_the_same_in_every_place(place, tiny_bundle, tmp_path):
    assert push(tiny_bundle.path, place).digest == Image.of(tiny_bundle).digest
    assert pull(place, tmp_path / "bundle").digest == Image.of(tiny_bundle).digest


def test_pushing_again_changes_nothing(place, tiny_bundle, key, tmp_path):
    first = push(tiny_bundle.path, place, sign_key=key)
    assert push(tiny_bundle.path, place).digest == first.digest
    pull(place, tmp_path / "bundle", verify_key=pub(key))  # the signature is still there


def test_only_files_that_the_manifest_lists_travel(place, bundle_copy, tiny_bundle, tmp_path):
    (bundle_copy / "stage.json").write_text("{}")
    push(bundle_copy, place)
    pull(place, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(tiny_bundle.path)


def test_a_cascade_arrives_with_all_of_its_stages(place, tiny_bundle, tiny_teacher, key, tmp_path):
    last = rewritten(tiny_teacher, tmp_path / "last", role="student")
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle, last], [0.8])
    pushed = push(cascade.path, place, sign_key=key)
    pulled = pull(place, tmp_path / "pulled", digest=pushed.digest, verify_key=pub(key))
    assert verify(tmp_path / "pulled") == pulled.bundle
    assert contents(tmp_path / "pulled") == contents(cascade.path)
    assert not pull(place, tmp_path / "pulled", digest=pushed.digest).new


def test_a_spoilt_bundle_is_not_pushed(place, bundle_copy, tmp_path):
    (bundle_copy / MODEL).write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx: does not match its hash"):
        push(bundle_copy, place)
    with pytest.raises(DeliveryError, match="push"):
        pull(place, tmp_path / "pulled")


def test_another_digest_is_refused_and_the_old_bundle_stays(place, tiny_bundle, other, tmp_path):
    push(tiny_bundle.path, place)
    with pytest.raises(DeliveryError, match=r"sha256:[0-9a-f]{64}"):
        pull(place, other.path, digest=Image.of(other).digest[:-1] + "0")
    assert Bundle.open(other.path) == other
    with pytest.raises(DeliveryError, match="no digest; give `sha256:`"):
        pull(place, other.path, digest="latest")


def test_a_bundle_takes_the_place_of_another(place, tiny_bundle, other, tmp_path):
    push(tiny_bundle.path, place)
    assert pull(place, other.path).new
    assert contents(other.path) == contents(tiny_bundle.path)
    assert sorted(path.name for path in tmp_path.iterdir() if "other" in path.name) == ["other"]


def test_a_bundle_that_is_there_needs_no_source(tiny_bundle, bundle_copy):
    pulled = pull("oci://127.0.0.1:1/gone:v1", bundle_copy, digest=Image.of(tiny_bundle).digest)
    assert not pulled.new
    assert contents(bundle_copy) == contents(tiny_bundle.path)


def test_a_signed_bundle_is_accepted_with_its_signers_key_alone(place, tiny_bundle, key, tmp_path):
    new_keys(tmp_path / "stranger")
    push(tiny_bundle.path, place)
    with pytest.raises(DeliveryError, match="is not signed: it has no signature; push it with --sign-key"):
        pull(place, tmp_path / "bundle", verify_key=pub(key))
    push(tiny_bundle.path, place, sign_key=tmp_path / "stranger")
    with pytest.raises(
        DeliveryError, match="is not signed: none of its 1 signatures was made with this key's other half"
    ):
        pull(place, tmp_path / "bundle", verify_key=pub(key))
    assert not (tmp_path / "bundle").exists()
    push(tiny_bundle.path, place, sign_key=key)
    assert pull(place, tmp_path / "bundle", verify_key=pub(key)).new
    pull(place, tmp_path / "again", verify_key=tmp_path / "stranger.pub")  # a second signature replaces none


def test_the_signature_of_one_bundle_is_none_of_another(tiny_bundle, other, key, tmp_path):
    push(tiny_bundle.path, str(tmp_path / "signed"), sign_key=key)
    push(other.path, str(tmp_path / "unsigned"))
    (tmp_path / "signed" / "signatures.json").rename(tmp_path / "unsigned" / "signatures.json")
    with pytest.raises(DeliveryError, match="is not signed: none of its 1 signatures"):
        pull(str(tmp_path / "unsigned"), tmp_path / "bundle", verify_key=pub(key))


@pytest.mark.parametrize("place", ["folder", "s3", "memory"], indirect=True)
def test_another_bundle_in_a_folder_is_not_overwritten(place, tiny_bundle, other):
    push(tiny_bundle.path, place)
    with pytest.raises(DeliveryError, match=f"holds another bundle.*push to {place}/{other.manifest.version}"):
        push(other.path, place)


@pytest.mark.parametrize("name", ["letter", CARD])
@pytest.mark.parametrize("place", ["folder", "s3", "memory"], indirect=True)
def test_other_files_are_neither_overwritten_nor_mixed_with_a_bundle(place, tiny_bundle, name):
    system, root = fsspec.url_to_fs(place)
    system.makedirs(root, exist_ok=True)
    system.pipe_file(f"{root}/{name}", b"dear")
    version = tiny_bundle.manifest.version
    with pytest.raises(DeliveryError, match=rf"holds {name}, which is no part.*such as {place}/{version}"):
        push(tiny_bundle.path, place)
    assert [path.rpartition("/")[2] for path in system.find(root)] == [name]
    assert system.cat_file(f"{root}/{name}") == b"dear"
    push(tiny_bundle.path, f"{place}/{version}")


@pytest.mark.parametrize("place", ["folder", "s3", "memory"], indirect=True)
def test_a_push_that_broke_off_is_ended_by_the_next(place, tiny_bundle, tmp_path):
    system, root = fsspec.url_to_fs(place)
    system.makedirs(root, exist_ok=True)
    system.pipe_file(f"{root}/{CARD}", (tiny_bundle.path / CARD).read_bytes())
    system.pipe_file(f"{root}/{MODEL}", (tiny_bundle.path / MODEL).read_bytes()[:100])
    push(tiny_bundle.path, place)
    pull(place, tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == contents(tiny_bundle.path)


def test_a_tag_moves_and_the_digest_still_leads_to_the_old_bundle(registry_address, tiny_bundle, other, tmp_path):
    place = f"oci://{registry_address}/moving:latest"
    old, new = push(tiny_bundle.path, place), push(other.path, place)
    assert pull(place, tmp_path / "new").digest == new.digest
    assert pull(place, tmp_path / "old", digest=old.digest).digest == old.digest
    assert pull(f"{place}@{old.digest}", tmp_path / "also-old").digest == old.digest


def test_without_a_tag_the_version_is_one(registry_address, tiny_bundle, tmp_path):
    place = f"oci://{registry_address}/untagged"
    pushed = push(tiny_bundle.path, place)
    assert pull(f"{place}:{tiny_bundle.manifest.version}", tmp_path / "bundle").digest == pushed.digest
    with pytest.raises(DeliveryError, match="which bundle"):
        pull(place, tmp_path / "other")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / MODEL).unlink(), r"model\.onnx: .*No such file"),
        (lambda folder: os.truncate(folder / MODEL, 100), r"shelf/model\.onnx: does not match its hash"),
        (lambda folder: (folder / MANIFEST).unlink(), r"shelf: has no manifest\.json; push a bundle there"),
        (lambda folder: (folder / MANIFEST).write_text("{"), r"shelf/manifest\.json: not JSON"),
    ],
    ids=["missing", "truncated", "without a manifest", "torn manifest"],
)
def test_a_bundle_that_is_not_whole_does_not_replace_one(tiny_bundle, bundle_copy, tmp_path, spoil, message):
    push(tiny_bundle.path, str(tmp_path / "shelf"))
    spoil(tmp_path / "shelf")
    with pytest.raises(DeliveryError, match=message):
        pull(str(tmp_path / "shelf"), bundle_copy)
    assert contents(bundle_copy) == contents(tiny_bundle.path)
    assert not list(tmp_path.glob(".bundle-*"))


def test_a_full_disk_is_told_and_the_old_bundle_stays(place, tiny_bundle, other, tmp_path):
    push(tiny_bundle.path, place)
    size = (tiny_bundle.path / MODEL).stat().st_size
    with (
        full_after(size // 2),
        pytest.raises(DeliveryError, match=r"other: cannot be written \(.*What was there is unchanged"),
    ):
        pull(place, other.path)
    assert Bundle.open(other.path) == other
    assert not list(tmp_path.glob(".other-*"))


def test_a_folder_with_something_else_is_not_replaced(tiny_bundle, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for taken in (tmp_path / "home", tmp_path / "home" / "letter"):
        with pytest.raises(DeliveryError, match="holds something else than a bundle"):
            pull(str(tiny_bundle.path), taken)
    with pytest.raises(DeliveryError, match=r"/proc: is where a volume is mounted.*name a folder in it"):
        pull(str(tiny_bundle.path), Path("/proc"))


def test_a_folder_with_more_than_a_bundle_is_not_replaced(tiny_bundle, other, tmp_path):
    shutil.copytree(other.path, tmp_path / "mixed")
    (tmp_path / "mixed" / "notes").mkdir()
    (tmp_path / "mixed" / "notes" / "mine.txt").write_text("dear")
    with pytest.raises(DeliveryError, match=r"mixed: holds notes/mine\.txt beside a bundle, which would be deleted"):
        pull(str(tiny_bundle.path), tmp_path / "mixed")
    assert (tmp_path / "mixed" / "notes" / "mine.txt").read_text() == "dear"


def test_a_shelf_keeps_its_signatures(tiny_bundle, other, tmp_path):
    new_keys(tmp_path / "key")
    push(tiny_bundle.path, str(tmp_path / "shelf"), sign_key=tmp_path / "key")
    for source in (tmp_path / "shelf", other.path):
        with pytest.raises(DeliveryError, match=r"shelf: holds signatures\.json beside a bundle"):
            pull(str(source), tmp_path / "shelf")
    pull(str(tmp_path / "shelf"), tmp_path / "bundle", verify_key=tmp_path / "key.pub")


def test_an_empty_address_is_refused(tiny_bundle, tmp_path):
    for address in ("", " "):
        with pytest.raises(DeliveryError, match="the address is empty"):
            push(tiny_bundle.path, address)
        with pytest.raises(DeliveryError, match="the address is empty"):
            pull(address, tmp_path / "bundle")


def test_a_link_to_a_folder_still_leads_there(tiny_bundle, other, tmp_path):
    (tmp_path / "current").symlink_to(other.path)
    pull(str(tiny_bundle.path), tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert contents(other.path) == contents(tiny_bundle.path)


def test_what_a_killed_pull_left_is_removed(tiny_bundle, tmp_path):
    (tmp_path / ".bundle-0a_9z8y7").mkdir()
    (tmp_path / ".bundle-x-0a_9z8y7").mkdir()  # of another folder's, `bundle-x`
    pull(str(tiny_bundle.path), tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle-x-0a_9z8y7", "bundle"]


def test_of_pods_that_share_a_volume_one_pulls_and_the_others_find_the_bundle(registry_address, tiny_bundle, tmp_path):
    place = f"oci://{registry_address}/shared:v1"
    push(tiny_bundle.path, place)
    found = []
    threads = [threading.Thread(target=lambda: found.append(pull(place, tmp_path / "bundle").new)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_pull_that_fails_leaves_nothing_behind(tiny_bundle, tmp_path):
    with pytest.raises(DeliveryError, match=r"has no manifest\.json"):
        pull(str(tmp_path / "nothing"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_two_digests_that_differ_are_refused(registry_address, tiny_bundle, tmp_path):
    digest = push(tiny_bundle.path, f"oci://{registry_address}/twice:v1").digest
    source, another = f"oci://{registry_address}/twice@{digest}", f"sha256:{'0' * 64}"
    with pytest.raises(DeliveryError, match=f"{digest}: is not {another}; leave one of the two digests out"):
        pull(source, tmp_path / "bundle", digest=another)
    assert pull(source, tmp_path / "bundle", digest=digest).new


def test_files_of_signatures_that_are_none_are_told(tiny_bundle, key, tmp_path):
    push(tiny_bundle.path, str(tmp_path / "shelf"))
    for content in ("[1]", "{", json.dumps([{"payload": "?", "signature": "?"}])):
        (tmp_path / "shelf" / "signatures.json").write_text(content)
        with pytest.raises(DeliveryError, match=r"signatures\.json: holds no signatures"):
            pull(str(tmp_path / "shelf"), tmp_path / "bundle", verify_key=pub(key))


def test_an_address_of_no_kind_names_those_that_there_are(tiny_bundle):
    with pytest.raises(DeliveryError, match=r"give oci://, s3://, gs://, or a folder"):
        push(tiny_bundle.path, "nowhere://x")


def test_a_folder_is_named_by_its_path_alone(tiny_bundle, tmp_path):
    for given in (
        lambda: push(tiny_bundle.path, f"file://{tmp_path}/v1"),
        lambda: pull(f"file://{tmp_path}/v1", tmp_path),
    ):
        with pytest.raises(DeliveryError, match=f"give a folder by its path alone, {tmp_path}/v1"):
            given()


def test_a_store_that_cannot_be_reached_is_told_as_such(tiny_bundle, tmp_path):
    address = f"ftp://{dead_address()}/v1"
    for given in (lambda: push(tiny_bundle.path, address), lambda: pull(address, tmp_path / "bundle")):
        with pytest.raises(DeliveryError, match=f"^{address}: .*refused; give oci://, s3://, gs://, or a folder"):
            given()


def test_a_store_whose_package_is_not_installed_names_the_extra(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DeliveryError, match=r"pip install 'reflux\[gcs\]'"):
        push(tiny_bundle.path, "gs://bundles/v1")


def test_a_bucket_that_does_not_exist_is_told(bucket, tiny_bundle, tmp_path):
    with pytest.raises(DeliveryError, match=r"s3://no-such-bucket/v1/.*: .*correct the address"):
        push(tiny_bundle.path, "s3://no-such-bucket/v1")
    with pytest.raises(DeliveryError, match=r"s3://no-such-bucket/v1: has no manifest\.json"):
        pull("s3://no-such-bucket/v1", tmp_path / "bundle")
