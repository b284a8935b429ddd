"""Where the outbox is, as the settings say: in a file of this process, or in the database of all."""

from __future__ import annotations

from collections.abc import Sequence

from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.outbox.store import Outbox
from service.shadow.settings import ShadowSettings
from service.shadow.shared.database import Database
from service.shadow.shared.outbox import SharedOutbox


def make_outbox(
    settings: ShadowSettings, bundle: str, labels: Sequence[str], teacher: TeacherIdentity | None
) -> AnyOutbox:
    """Make the outbox of a bundle version and the `teacher` that this process asks, None if it asks none.

    It is not open yet.
    """
    if settings.database is not None:
        return SharedOutbox(
            make_database(settings),
            bundle=bundle,
            labels=labels,
            teacher=teacher,
            keep_text=settings.store_text,
            lease_seconds=settings.lease_seconds,
            most_pending=settings.backlog_rows,
        )
    assert teacher is not None, "the settings refuse a file without a teacher"
    return Outbox(
        settings.path,
        bundle=bundle,
        labels=labels,
        teacher=teacher.key,
        keep_text=settings.store_text,
        max_bytes=settings.max_bytes,
    )


def make_database(settings: ShadowSettings) -> Database:
    """Make the database of the settings, which have one. It connects when it is used."""
    assert settings.database is not None
    return Database(settings.database.get_secret_value(), settings.database_password_file)
