"""A service whose teacher is an exported bundle: which students learned from that teacher, by either of its names."""

from __future__ import annotations

import pytest

from tests.support.tiny_bundle import WORDS, rewritten
from tests.support.waiting import until

ORIGIN = {"name": "local:large", "version": "7"}


@pytest.fixture
def teacher(tiny_teacher, tmp_path):
    """A bundle that was exported from ORIGIN."""
    return rewritten(tiny_teacher, tmp_path / "teacher", teacher=ORIGIN)


@pytest.fixture
def shown(running, tiny_bundle, teacher, tmp_path):
    """`await shown(learned)`: /gap of a student that learned from this teacher, as soon as its texts are compared."""
    texts = [word for words in WORDS.values() for word in words]

    async def serve(learned):
        student = rewritten(tiny_bundle, tmp_path / "student", teacher=learned)
        settings = {"kind": "bundle", "path": str(teacher.path)}
        shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": settings}
        found = {}
        async with running(bundle=student.path, shadow=shadow) as client:
            for text in texts:
                assert (await client.post("/classify", json={"text": text})).status_code == 200

            async def compared():
                found.update((await client.get("/gap")).json())
                return found["counts"]["compared"] == len(texts)

            await until(compared)
        return found

    return serve


def own(teacher, **changed):
    return {"name": f"bundle:{teacher.manifest.name}", "version": teacher.manifest.version, **changed}


async def test_a_student_of_labels_by_the_bundle_learned_from_it(shown, teacher):
    assert (await shown(own(teacher)))["blind"] == []


async def test_a_student_of_the_teacher_that_the_bundle_was_exported_from_learned_from_it(shown):
    assert (await shown(ORIGIN))["blind"] == []


async def test_a_student_of_another_export_of_the_same_teacher_learned_from_it(shown, teacher):
    assert (await shown(own(teacher, version="older", origin=ORIGIN)))["blind"] == []


async def test_a_student_of_another_version_of_the_bundle_learned_from_another_teacher(shown, teacher):
    found = await shown(own(teacher, version="older"))
    assert found["verdict"] == "blind"
    name, version = own(teacher).values()
    assert f"measured against {name}@{version}, but the student learned from {name}@older" in found["message"]
