"""The stages of a cascade, as its manifest lists them: complete bundles in folders of their own, cheapest first.

A text is answered by the first stage whose score reaches the stage's cut-off, else by the last, or by the teacher where
the last one has a cut-off too. `format` checks the bundles that the entries name, `cascade` runs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.bundle.manifest_rules import STAGES

TEACHER = "teacher"
"""What answers last, in answers and metrics, where texts are deferred to the teacher. It is in no folder."""

_OUTSIDE_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: the `folder` of its bundle within the cascade's, such as `stages/0-static`, and the bundle's version.

    It answers the texts on which its score is at least `cut_off`, in [0, 1]. None for a last stage that answers every
    text that reaches it; where the last one has a cut-off, it defers the others to the teacher.
    """

    folder: str
    version: str
    cut_off: float | None

    @property
    def name(self) -> str:
        """The name of the stage in answers and metrics, such as `0-static`."""
        return self.folder.rpartition("/")[2]


def stage_folder(place: int, name: str) -> str:
    """Return the folder of the stage at `place`, a student called `name`."""
    return f"{STAGES}/{place}-{_OUTSIDE_NAMES.sub('-', name)[:_LONGEST]}"
