"""The anchors of a bundle: texts with the label that the teacher gave them when the student was trained.

Serving asks the teacher about them again, day by day, to see whether it still answers alike. Bundles older than this
file have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from export.bundle.format import Bundle, BundleError
from export.bundle.manifest_rules import encodable, read_object

ANCHORS = "anchors.jsonl"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A text, and the label that the teacher put first, before any calibration."""

    text: str
    label: str


def anchors_jsonl(anchors: Iterable[Anchor]) -> bytes:
    """Return the bytes of `anchors.jsonl`."""
    rows = ({"text": anchor.text, "label": anchor.label} for anchor in anchors)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_anchors(bundle: Bundle) -> list[Anchor]:
    """Read the anchors of a bundle, none if it has no such file. Raises BundleError for a line that is not one."""
    if ANCHORS not in bundle.manifest.files:
        return []
    path = bundle.path / ANCHORS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error}); correct its permissions") from error
    anchors = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            anchors.append(_anchor(line, bundle.manifest.labels))
        except ValueError as error:
            raise BundleError(f"{path}:{number}: not an anchor ({error}); export the bundle again") from error
    return anchors


def _anchor(line: bytes, labels: tuple[str, ...]) -> Anchor:
    """Parse a line of JSON. Raises ValueError that names the key that is wrong."""
    row = read_object(line)
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not encodable(text):
        raise ValueError("'text' must be text in UTF-8")
    if not isinstance(label, str) or label not in labels:
        raise ValueError(f"'label' must be one of the {len(labels)} labels of the manifest")
    return Anchor(text, label)
