"""A cascade: each text is answered by the first stage that is sure enough, and the bundle is refused if damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from distill.errors import DistillError
from export.bundle.cascade import Cascade, is_deferred, load_classifier, write_cascade
from export.bundle.classifier import Classifier, GraphTokenizer, InferenceError
from export.bundle.format import CARD, GOLDEN, MANIFEST, TOKENIZER, Bundle, BundleError, golden_jsonl
from export.bundle.verify import TOLERANCE, verify
from export.hub import export_hub
from tests.support.tiny_bundle import WORDS, build_bundle, build_cascade, rewritten

SURE, UNSURE = "invoice", "my invoice is late"
"""The first has a score of 0.87, the second of 0.38, with every tiny bundle that knows their words."""

CUT_OFF = 0.8


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Three students that take the word `invoice` for different labels."""
    folder = tmp_path_factory.mktemp("stages")
    flips: list[dict[str, str]] = [{"invoice": "account"}, {"invoice": "technical"}, {}]
    return [build_bundle(folder / str(place), name=f"stage {place}", flip=flip) for place, flip in enumerate(flips)]


@pytest.fixture
def make(stages: Sequence[Bundle], tmp_path: Path) -> Callable[..., Bundle]:
    def build(*cut_offs: float, **facts: Any) -> Bundle:
        return build_cascade(tmp_path / "cascade", stages[-len(cut_offs) - 1 :], cut_offs, **facts)

    return build


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that tokenizers are given."""
    texts: list[str] = []
    encode = GraphTokenizer.encode
    monkeypatch.setattr(GraphTokenizer, "encode", lambda self, text: texts.append(text) or encode(self, text))
    return texts


def ending_with_a_token(bundle: Bundle, side: str, length: int) -> bytes:
    """The tokenizer of a tiny bundle, which puts its one special token after a text, too, and cuts it at a length."""
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    special = [("[CLS]", tokenizer.token_to_id("[CLS]"))]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [CLS]", special_tokens=special)
    tokenizer.enable_truncation(length, direction=side)
    return tokenizer.to_str().encode()


def corrected(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a bundle in place."""
    data = json.loads((bundle.path / MANIFEST).read_text())
    change(data)
    (bundle.path / MANIFEST).write_text(json.dumps(data))


def test_a_text_is_answered_by_the_first_stage_that_is_sure_enough(make: Callable[..., Bundle]) -> None:
    classifier = Cascade.load(verify(make(CUT_OFF, CUT_OFF).path))
    labels = [*WORDS]
    found = [(one.stage, labels[one.best]) for one in map(classifier.classify, (SURE, UNSURE, "parcel"))]
    assert found == [(0, "account"), (2, "billing"), (0, "shipping")]


@pytest.mark.parametrize(("cut_off", "stage"), [(0.0, 0), (1.0, 1)])
def test_a_cut_off_of_0_keeps_every_text_and_of_1_passes_every_text_on(
    make: Callable[..., Bundle], cut_off: float, stage: int
) -> None:
    classifier = Cascade.load(make(cut_off))
    assert {one.stage for one in classifier.answer([SURE, UNSURE])} == {stage}


def test_a_score_equal_to_the_cut_off_answers(make: Callable[..., Bundle], stages: Sequence[Bundle]) -> None:
    score = Classifier.load(stages[1]).classify(SURE).score
    assert Cascade.load(make(score)).classify(SURE).stage == 0
    assert Cascade.load(make(float(np.nextafter(score, 1)))).classify(SURE).stage == 1


def test_texts_together_are_answered_as_alone(make: Callable[..., Bundle]) -> None:
    classifier = Cascade.load(make(CUT_OFF, CUT_OFF))
    texts = [UNSURE, SURE, "refund parcel", "login", ""]
    together = classifier.answer(texts)
    assert [one.stage for one in together] == [classifier.classify(text).stage for text in texts]
    np.testing.assert_allclose([one.probabilities for one in together], classifier.probabilities(texts), atol=1e-6)
    assert classifier.answer([]) == []
    assert classifier.probabilities([]).shape == (0, 4)


@pytest.mark.parametrize("text", [SURE, "invoice " * 40], ids=["short", "cut"])
def test_stages_with_equal_tokenizers_tokenise_a_text_once(
    make: Callable[..., Bundle], encoded: list[str], text: str
) -> None:
    classifier = Cascade.load(make(1.0, 1.0))
    encoded.clear()
    assert classifier.classify(text).stage == 2
    assert encoded == [text]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("most", [(6, 4, 5), (4, 6, 5)])
def test_of_stages_that_cut_at_other_lengths_each_answers_as_alone_and_tokenises_only_what_is_cut(
    stages: Sequence[Bundle], tmp_path: Path, encoded: list[str], most: Sequence[int], side: str
) -> None:
    own = [
        rewritten(
            stage, tmp_path / str(length), {TOKENIZER: ending_with_a_token(stage, side, length)}, max_tokens=length
        )
        for stage, length in zip(stages, most, strict=True)
    ]
    first, last = Classifier.load(own[0]), Classifier.load(own[-1])
    cascade = Cascade.load(build_cascade(tmp_path / "cascade", own, [1.0, 1.0]))
    for count in range(8):
        text, tokens = " ".join("late invoice my login the box crash".split()[:count]), count + 2
        alone = last.classify(text)
        encoded.clear()
        found = cascade.classify(text)
        assert encoded == [text] * (1 + sum(tokens > min(pair) for pair in pairwise(most)))
        assert (found.stage, found.tokens, found.truncated) == (2, min(tokens, most[-1]), tokens > most[-1])
        assert (found.tokens, found.truncated, found.unknown) == (alone.tokens, alone.truncated, alone.unknown)
        np.testing.assert_array_equal(found.logits, alone.logits)
        np.testing.assert_array_equal(found.embedding, first.classify(text).embedding)


def test_a_stage_with_a_tokenizer_of_its_own_tokenises_again(stages: Sequence[Bundle], tmp_path: Path) -> None:
    shorter = rewritten(stages[1], tmp_path / "shorter", max_tokens=2)
    cascade = build_cascade(tmp_path / "cascade", [shorter, stages[2]], [CUT_OFF])
    classifier = Cascade.load(cascade)
    assert cascade.manifest.max_tokens == stages[2].manifest.max_tokens
    assert [(one.stage, one.tokens) for one in classifier.answer([SURE, "the invoice"])] == [(0, 2), (1, 3)]


def test_the_version_follows_stages_and_cut_offs_but_not_the_card(
    make: Callable[..., Bundle], stages: Sequence[Bundle], tmp_path: Path
) -> None:
    first = make(CUT_OFF).manifest.version
    other = build_cascade(tmp_path / "other", stages[:2], [CUT_OFF]).manifest.version
    assert len({first, make(0.7).manifest.version, other}) == 3
    told = rewritten(stages[1], tmp_path / "told", {CARD: b"# Another card\n"})
    assert build_cascade(tmp_path / "again", [told, stages[2]], [CUT_OFF]).manifest.version == first


def test_where_texts_are_deferred_the_last_student_stands_in_for_the_teacher(
    make: Callable[..., Bundle], stages: Sequence[Bundle], tmp_path: Path
) -> None:
    bundle = make(CUT_OFF, defer=CUT_OFF)
    assert bundle.manifest.deferred_below == CUT_OFF
    assert bundle.manifest.answering == ("0-stage-1", "1-stage-2", "teacher")
    answers = Cascade.load(verify(bundle.path)).answer([SURE, UNSURE])
    assert [(one.stage, is_deferred(one, bundle.manifest)) for one in answers] == [(0, False), (1, True)]
    assert make(CUT_OFF, defer=0.7).manifest.version != bundle.manifest.version
    alone = build_cascade(tmp_path / "alone", stages[2:], [], defer=CUT_OFF)
    assert [is_deferred(one, alone.manifest) for one in Cascade.load(verify(alone.path)).answer([SURE, UNSURE])] == [
        False,
        True,
    ]
    assert not any(is_deferred(one, make(CUT_OFF).manifest) for one in answers), "it has no teacher"
    assert not is_deferred(answers[1], make(CUT_OFF, defer=answers[1].score).manifest), "its score reaches the cut-off"


def test_one_function_loads_both_kinds(make: Callable[..., Bundle], stages: Sequence[Bundle]) -> None:
    assert isinstance(load_classifier(make(CUT_OFF)), Cascade)
    assert isinstance(load_classifier(stages[0]), Classifier)


def test_a_plain_bundle_has_a_manifest_that_earlier_versions_read(stages: Sequence[Bundle]) -> None:
    assert "stages" not in json.loads((stages[0].path / MANIFEST).read_text())


def test_a_golden_text_near_a_cut_off_may_be_answered_by_either_stage(
    make: Callable[..., Bundle], stages: Sequence[Bundle]
) -> None:
    score = Classifier.load(stages[1]).classify(SURE).score
    first, last = (Classifier.load(stage).classify(SURE) for stage in stages[1:])
    for cut_off, expected, fits in (
        (score - TOLERANCE / 2, last, True),
        (score + TOLERANCE / 2, first, True),
        (score - TOLERANCE * 2, last, False),
        (score + TOLERANCE * 2, first, False),
    ):
        cascade = make(cut_off)
        row = replace(
            cascade.golden()[0],
            text=SURE,
            label=cascade.manifest.labels[expected.best],
            probabilities=tuple(expected.probabilities.tolist()),
        )
        rewritten(cascade, cascade.path, {GOLDEN: golden_jsonl([row])})
        if fits:
            verify(cascade.path)
        else:
            with pytest.raises(BundleError, match="golden row 1 of 1"):
                verify(cascade.path)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", MANIFEST, "golden.jsonl"])
def test_a_changed_file_of_a_stage_is_refused(make: Callable[..., Bundle], name: str) -> None:
    cascade = make(CUT_OFF)
    with (cascade.path / cascade.manifest.stages[1].folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=rf"stages/1-stage-2/{name}: does not match its hash"):
        Bundle.open(cascade.path)


def test_a_missing_stage_is_refused(make: Callable[..., Bundle]) -> None:
    cascade = make(CUT_OFF)
    shutil.rmtree(cascade.path / cascade.manifest.stages[0].folder)
    with pytest.raises(BundleError, match=r"stages/0-stage-1/.*: missing"):
        Bundle.open(cascade.path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data["stages"].pop(0), "'stages' must be objects of folder, version and cut_off"),
        (lambda data: data["stages"].pop(), "is not that of its content"),
        (lambda data: data["stages"][0].update(cut_off=None), "'stages' must be"),
        (lambda data: data["stages"][0].update(cut_off=1.5), "'stages' must be"),
        (lambda data: data["stages"][0].update(cut_off=True), "'stages' must be"),
        (lambda data: data["stages"][1].update(cut_off=0.5), "is not that of its content"),
        (lambda data: data["stages"][0].update(folder="../elsewhere"), "'stages' must be"),
        (lambda data: data["stages"][0].update(folder=data["stages"][1]["folder"]), "'stages' must be"),
        (lambda data: data["stages"][0].update(more=1), "'stages' must be"),
        (lambda data: data.update(stages=[]), "only in a bundle of the family cascade"),
        (lambda data: data.update(family="encoder"), "only in a bundle of the family cascade"),
        (lambda data: data["stages"][0].update(cut_off=0.5), "is not that of its content"),
        (lambda data: data["files"].pop("stages/0-stage-1/model.onnx"), "is not that of a student"),
        (lambda data: data["files"].pop("stages/0-stage-1/manifest.json"), "lists no stages/0-stage-1/manifest.json"),
        (lambda data: data["files"].update({"../model.onnx": "0" * 64}), "'files' must be"),
        (lambda data: data["files"].update({"/model.onnx": "0" * 64}), "'files' must be"),
        (lambda data: data["files"].update({"stages/a/b/model.onnx": "0" * 64}), "'files' must be"),
        (lambda data: data["files"].update({"stages/../model.onnx": "0" * 64}), "'files' must be"),
    ],
)
def test_a_manifest_whose_stages_do_not_fit_is_refused(
    make: Callable[..., Bundle], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    cascade = make(CUT_OFF)
    corrected(cascade, change)
    with pytest.raises(BundleError, match=told):
        Bundle.open(cascade.path)


def test_students_with_other_labels_are_no_stages(stages: Sequence[Bundle], tmp_path: Path) -> None:
    first, last = stages[:2]
    turned = build_bundle(tmp_path / "turned", labels=[*reversed(WORDS)])
    several = build_bundle(tmp_path / "several", multi_label=True)
    cascade = build_cascade(tmp_path / "cascade", [first, last], [CUT_OFF])
    for other in (turned, several, cascade):
        with pytest.raises(BundleError, match="cannot be a stage"):
            write_cascade(tmp_path / "new", [other, last], [CUT_OFF], {}, last.manifest)
    assert not (tmp_path / "new").exists()


def test_the_embedding_is_that_of_the_first_stage_whichever_answers(
    make: Callable[..., Bundle], stages: Sequence[Bundle]
) -> None:
    classifier, first = Cascade.load(make(CUT_OFF)), Classifier.load(stages[1])
    for answers in (classifier.answer([SURE, UNSURE]), [classifier.possible(text, 0)[-1] for text in (SURE, UNSURE)]):
        assert [one.stage for one in answers] == [0, 1]
        for text, answer in zip((SURE, UNSURE), answers, strict=True):
            np.testing.assert_allclose(answer.embedding, first.classify(text).embedding, atol=1e-6)


def test_a_text_that_a_later_stage_fails_on_fails(make: Callable[..., Bundle]) -> None:
    with pytest.raises(InferenceError):
        Cascade.load(make(CUT_OFF)).classify("poison")


def test_the_layout_of_the_hub_is_refused_with_the_stage_to_export(make: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"is a cascade.*stages/1-stage-2"):
        export_hub(make(CUT_OFF), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_tokenizers_that_differ_in_a_byte_are_not_shared(stages: Sequence[Bundle], tmp_path: Path) -> None:
    spaced = json.dumps(json.loads((stages[1].path / TOKENIZER).read_text()), indent=1).encode()
    other = rewritten(stages[1], tmp_path / "other", {TOKENIZER: spaced})
    for first, shared in ((stages[1], True), (other, False)):
        loaded = Cascade.load(build_cascade(tmp_path / "cascade", [first, stages[2]], [CUT_OFF]))
        assert (loaded.stages[0][0].tokenizer is loaded.stages[1][0].tokenizer) == shared
