"""Terms of use: what a task says about those of its teacher, and the vendors whose terms forbid to train on answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from distill.teachers.errors import TeacherError


class TermsOfUse(BaseModel):
    """Confirms that the terms of use allow training on the teacher's answers; `reference` says where they are.

    `permission` says what allows it although the vendor's general terms forbid it, such as a contract. It is recorded
    with the labels and in the bundle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    acknowledged: Literal[True]
    reference: str = Field(min_length=1)
    permission: str | None = Field(default=None, min_length=1)


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor whose general terms forbid training on its answers: its domain, and its prefix of models at gateways."""

    name: str
    domain: str
    prefix: str


PROHIBITING = (Vendor("TypeSafe", "typesafe.ai", "typesafe/"),)


def check_permission(base_url: str, model: str, terms: TermsOfUse | None) -> None:
    """Raise TeacherError if the vendor's terms forbid training on its answers and `terms` state no permission."""
    host = urlsplit(base_url).hostname or ""
    for vendor in PROHIBITING:
        theirs = host == vendor.domain or host.endswith(f".{vendor.domain}") or model.startswith(vendor.prefix)
        if theirs and (terms is None or terms.permission is None):
            raise TeacherError(
                f"{vendor.name}'s terms of use forbid training on its answers, so it cannot be a teacher. If an "
                "agreement of yours allows it, write `terms: {acknowledged: true, reference: <where the terms stand>, "
                "permission: <the agreement>}`; that is recorded with the labels and in every bundle"
            )
