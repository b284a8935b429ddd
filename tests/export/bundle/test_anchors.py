"""Anchors are read back as they were written; a bundle without them has none, and one with broken ones is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.bundle.anchors import ANCHORS, Anchor, anchors_jsonl, read_anchors
from export.bundle.format import Bundle, BundleError
from export.bundle.verify import verify
from tests.support.tiny_bundle import build_bundle, rewritten

GOOD = [Anchor("Où est\u2028ma facture?", "billing"), Anchor("", "shipping")]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_bundle(tmp_path / "plain")


def test_anchors_are_read_as_they_were_written(bundle, tmp_path) -> None:
    assert read_anchors(bundle) == []
    made = rewritten(bundle, tmp_path / "with", {ANCHORS: anchors_jsonl(GOOD)})
    assert read_anchors(verify(made.path)) == GOOD
    assert made.manifest.version != bundle.manifest.version


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[]", "expected an object"),
        (b'{"text": 1, "label": "billing"}', "'text' must be text"),
        (b'{"text": "\\ud800", "label": "billing"}', "'text' must be text in UTF-8"),
        (b'{"text": "a", "label": "other"}', "'label' must be one of the 4 labels"),
        (b'{"text": "a", "label": ["billing"]}', "'label' must be one of the 4 labels"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_a_line_that_is_no_anchor_is_named(bundle, tmp_path, line, said) -> None:
    made = rewritten(bundle, tmp_path / "with", {ANCHORS: anchors_jsonl(GOOD) + line + b"\n"})
    with pytest.raises(BundleError, match=r"anchors\.jsonl:3: not an anchor \(") as error:
        verify(made.path)
    assert said in str(error.value)
