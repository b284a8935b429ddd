"""A student becomes the bundle of its fastest graph that passes the gates, and of none that does not."""

import dataclasses
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer

from distill.data.splits import Test
from distill.task import Gates
from export import gates, selection
from export import served_graph as module
from export.build import Baseline
from export.bundle.anchors import read_anchors
from export.bundle.classifier import Classifier
from export.bundle.format import (
    CARD,
    FP16,
    FUSED,
    INT8,
    INT8_DYNAMIC,
    INT8_QDQ,
    MODEL,
    PLAIN,
    PORTABLE,
    TOKENIZER,
    Bundle,
)
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.gates import GateError
from export.graph import variants
from export.graph.speed import Speeds
from export.graph.variants import load_variants
from export.model_card import card
from export.torch_to_onnx import export_onnx

AUTO = r"Set export\.variant to auto to serve what passes"


def claim(monkeypatch, **milliseconds):
    """Let each variant be measured to take so long, whatever it takes.

    `int8_qdq` and `int8_dynamic` take longer than `int8` unless they are given.
    """
    times = {name.replace("_", "-"): own for name, own in milliseconds.items()}
    times = {INT8_QDQ: 1.3 * times.get(INT8, 1), INT8_DYNAMIC: 1.4 * times.get(INT8, 1), **times}

    def measure(graphs, *_, **__):
        return Speeds({name: np.array([times[name] / 1000]) for name in graphs})

    monkeypatch.setattr(selection, "measure", measure)


@pytest.fixture
def speeds(monkeypatch):
    """`speeds(plain=3.0, ...)`: the milliseconds that each variant is measured to take; int8 is the fastest without."""
    claim(monkeypatch, plain=3.0, fused=2.0, int8=1.0, fp16=1.5)
    return lambda **milliseconds: claim(monkeypatch, **milliseconds)


@pytest.fixture
def make(speeds, students, build, tmp_path):
    """`make(variant, family=, gates=, baseline=, student=, path=)`: build the bundle of a student."""
    return lambda variant="auto", *, family="encoder", student=None, path="bundle", **settings: build(
        student or students[family], tmp_path / path, variant, **settings
    )


@pytest.fixture(scope="session")
def built(students, build, tmp_path_factory):
    """The bundles of the encoder with `export.variant` `fp32` and `auto`, which takes int8. Shared."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        claim(patch, plain=3.0, fused=2.0, int8=1.0)
        return {variant: build(students["encoder"], folder / variant, variant) for variant in ("fp32", "auto")}


@pytest.fixture
def on_gpu(monkeypatch):
    """This machine as one with a GPU: everything runs where it did, and says that it does not."""
    monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(Classifier, "on_gpu", True)


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(owner, name, part, change)`: a function that writes a graph also changes its constants named `part`."""

    def replace(owner, name, part, change):
        write = getattr(owner, name)

        def write_badly(source, target, *others):
            write(source, target, *others)
            model = onnx.load(target)
            for value in model.graph.initializer:
                if part in value.name:
                    value.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(value)), value.name))
            onnx.save(model, target)
            return target

        monkeypatch.setattr(owner, name, write_badly)

    return replace


@pytest.fixture
def overflow(spoil):
    """A converter whose graph answers values that are not numbers."""
    spoil(variants, "to_float16", "temperature", lambda value: value * np.float32("nan"))


@pytest.fixture
def corrupt(spoil):
    """A quantiser that reverses the classifier's choices."""
    spoil(variants, "quantise", "head.weight", np.negative)


def answers(bundle, validation):
    return Classifier.load(Bundle.open(bundle.path)).probabilities(validation.texts)


def expected(student, texts):
    logits = student.logits(texts).astype(np.float64) / student.temperature
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_int8_may_be_asked_for(make, built):
    assert make("int8").manifest.version == built["auto"].manifest.version


def test_the_int8_graph_is_taken_when_it_passes(built):
    bundle = built["auto"]
    assert bundle.manifest.variant == INT8
    assert bundle.manifest.measured["reason"] == "int8 passed its gates"
    assert bundle.manifest.measured["milliseconds"] == 1.0
    assert bundle.manifest.measured["rows"] == 1
    assert bundle.manifest.measured["milliseconds_by_variant"] == pytest.approx(
        {PLAIN: 3.0, FUSED: 2.0, INT8: 1.0, INT8_QDQ: 1.3, INT8_DYNAMIC: 1.4}
    )
    assert all(gate["passed"] for gate in bundle.manifest.gates.values())
    assert "MatMulIntegerToFloat" in {node.op_type for node in onnx.load(bundle.path / "model.onnx").graph.node}


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        ({"int8": 1.0, "int8_qdq": 0.9, "int8_dynamic": 1.5}, INT8_QDQ),
        ({"int8": 1.0, "int8_qdq": 1.2, "int8_dynamic": 0.7}, INT8),  # texts can share its runs
        ({"int8": 1.95, "int8_qdq": 1.96, "int8_dynamic": 0.7}, INT8_DYNAMIC),
        ({"int8": 1.0, "int8_qdq": 0.96, "int8_dynamic": 0.97}, INT8),  # as fast as one another
        ({"int8": 1.0, "int8_qdq": 0.9, "int8_dynamic": 0.88}, INT8_QDQ),
        ({"int8": 1.95, "int8_qdq": 1.96, "int8_dynamic": 1.97}, FUSED),  # as fast as fp32
        ({"int8": 3.0, "fused": 3.0}, FUSED),
        ({"int8": 3.0, "fused": 3.3}, PLAIN),
    ],
)
def test_the_fastest_that_passes_is_taken_and_chance_does_not_choose(make, speeds, times, taken):
    speeds(**{"plain": 3.0, "fused": 2.0, **times})
    assert make("auto").manifest.variant == taken


def test_the_manifest_has_what_was_measured_of_every_variant(built, validation, baseline):
    bundle = built["auto"]
    variants = bundle.manifest.measured["variants"]
    assert list(variants) == [PLAIN, FUSED, INT8, INT8_QDQ, INT8_DYNAMIC]
    own = answers(bundle, validation).argmax(1)
    assert variants[INT8]["teacher_agreement"] == pytest.approx((own == baseline.teacher.argmax(1)).mean())
    gates = bundle.manifest.gates
    for name, row in variants.items():
        assert row["refused"] is False
        assert row["bytes"] > 0
        if name not in (PLAIN, FUSED):
            assert row["agreement"] == gates[f"{name}: agreement with fp32"]["measured"]
            assert row["time"] == gates[f"{name}: share of fp32's time"]["measured"]
    assert variants[FUSED]["time"] == variants[FUSED]["agreement"] == 1.0
    assert variants[INT8]["bytes"] < variants[FUSED]["bytes"]


def test_a_variant_whose_answers_depend_on_their_neighbours_is_refused(make, speeds, monkeypatch):
    """As one does whose ranges are those of the run, if its texts are unlike one another."""
    speeds(plain=3.0, fused=2.0, int8=1.5, int8_qdq=1.6, int8_dynamic=1.0)
    run, dynamic = Classifier.run, []

    def answer(self, rows):
        found = run(self, rows)
        return found if len(rows) == 1 or self not in dynamic else [one._replace(logits=-one.logits) for one in found]

    def load(paths, *others):
        loaded = load_variants(paths, *others)
        dynamic.extend(own for name, own in loaded.items() if name == INT8_DYNAMIC)
        return loaded

    monkeypatch.setattr(module, "load_variants", load)
    monkeypatch.setattr(Classifier, "run", answer)
    bundle = make("auto")
    assert bundle.manifest.variant == INT8
    gate = bundle.manifest.gates["int8-dynamic, 16 texts in one run: agreement with each text alone"]
    assert (gate["passed"], gate["required"]) == (False, 0.5)
    assert bundle.manifest.measured["variants"][INT8_DYNAMIC]["refused"] is True
    assert "| int8-dynamic | 1.000 | 0.500 |" in (bundle.path / CARD).read_text()


@pytest.mark.parametrize("sharper", [1.0, 2.5])
def test_the_temperature_is_fitted_to_the_graph_that_is_served(make, spoil, students, validation, sharper):
    """The teacher is the student itself at the temperature 3; int8 makes all logits `sharper`."""
    student = students["encoder"]
    logits = student.logits(validation.texts).astype(np.float64) / 3
    teacher = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for part in ("head.weight", "head.bias"):
        spoil(variants, "quantise", part, lambda value: value * np.float32(sharper))
    bundle = make("int8", baseline=Baseline(validation, teacher.astype(np.float32)))
    assert bundle.manifest.temperature == pytest.approx(3 * sharper, rel=0.05)
    np.testing.assert_allclose(answers(bundle, validation), teacher, atol=0.06)
    portable = Classifier.load(bundle, graph=PORTABLE)
    np.testing.assert_allclose(portable.probabilities(validation.texts), teacher, atol=0.06)
    assert verify(bundle.path) == bundle  # the golden answers are those of the temperature that was fitted
    recalibrated = bundle.manifest.measured["recalibrated"]
    assert recalibrated["trained"] == student.temperature
    assert recalibrated["cross_entropy"][0] > recalibrated["cross_entropy"][1]


def test_only_reduced_graphs_of_students_with_one_label_per_text_get_another_temperature(make, students):
    several = dataclasses.replace(students["static"], multi_label=True)
    for name, given in {
        "exact": {"variant": "fp32"},
        "teacher": {"variant": "int8", "role": "teacher"},
        "several": {"variant": "int8", "student": several},
    }.items():
        manifest = make(**given, path=name).manifest
        assert manifest.temperature == students["static"].temperature, name
        assert "recalibrated" not in manifest.measured


def test_a_packed_graph_has_a_portable_one_beside_it(built, validation):
    for bundle in built.values():
        assert bundle.manifest.portable == PORTABLE
        assert set(bundle.manifest.files) >= {MODEL, PORTABLE}
        portable = Classifier.load(bundle, graph=PORTABLE)
        assert not portable.packed
        np.testing.assert_allclose(
            portable.probabilities(validation.texts), answers(bundle, validation), rtol=1e-3, atol=1e-3
        )
        gates = bundle.manifest.gates
        assert gates["portable: agreement with the served graph"]["measured"] == 1.0
        assert gates["portable, 16 texts in one run: agreement with the served graph"]["measured"] == 1.0
        assert verify(bundle.path) == bundle


def test_a_graph_that_takes_ids_and_mask_alone_is_not_kept_twice(make):
    bundle = make("auto", family="static")
    assert bundle.manifest.portable == MODEL
    assert PORTABLE not in bundle.manifest.files
    assert not [name for name in bundle.manifest.gates if "portable" in name]


def test_a_portable_graph_that_answers_otherwise_is_not_kept(make, spoil):
    spoil(module, "make_portable", "head.weight", np.negative)
    with pytest.raises(GateError, match=r"small, portable graph does not pass: portable: agreement with the served"):
        make("int8")


@pytest.mark.parametrize(("plain", "fused", "taken"), [(3.0, 2.0, FUSED), (2.0, 3.0, PLAIN)])
def test_the_fastest_fp32_graph_is_taken_where_fp32_was_asked_for(make, speeds, plain, fused, taken):
    speeds(plain=plain, fused=fused)
    bundle = make("fp32")
    assert bundle.manifest.variant == taken
    assert bundle.manifest.measured["milliseconds_by_variant"] == {PLAIN: plain, FUSED: fused}
    assert "fp32 was asked for" in (bundle.path / CARD).read_text()


def test_the_plain_graph_is_taken_where_it_was_asked_for(make, speeds):
    speeds(plain=9.0, fused=1.0)
    bundle = make("plain")
    assert bundle.manifest.variant == PLAIN
    assert bundle.manifest.measured["milliseconds_by_variant"] == {PLAIN: 9.0}
    assert bundle.manifest.measured["reason"] == "plain was asked for"
    assert not {node.domain for node in onnx.load(bundle.path / MODEL).graph.node} - {""}


def test_without_a_gpu_fp16_is_taken_where_it_was_asked_for_and_the_card_says_what_was_not_judged(
    make, speeds, validation, students
):
    speeds(plain=3.0, fused=2.0, fp16=50.0)
    bundle = make("fp16", gates=Gates(agreement=0.97))
    assert bundle.manifest.variant == FP16
    assert bundle.manifest.gates["fp16: agreement with fp32"]["passed"]
    assert "fp16: share of fp32's time" not in bundle.manifest.gates
    why = "fp16 passed its gates; how fast it is was not judged, for this machine has no GPU"
    assert bundle.manifest.measured["reason"] == why
    assert why in (bundle.path / CARD).read_text()
    student = students["encoder"].with_temperature(bundle.manifest.temperature)
    np.testing.assert_allclose(answers(bundle, validation), expected(student, validation.texts), atol=0.02)
    assert verify(bundle.path) == bundle


def test_on_a_gpu_the_fastest_of_what_passes_is_taken(make, speeds, on_gpu):
    speeds(plain=3.0, fused=2.0, int8=1.5, fp16=1.0)
    bundle = make("auto")
    assert bundle.manifest.variant == FP16
    assert bundle.manifest.measured["reason"] == "fp16 passed its gates"
    assert set(bundle.manifest.measured["variants"]) == {PLAIN, FUSED, INT8, INT8_QDQ, INT8_DYNAMIC, FP16}
    assert "| variant | ms per text, 50 in a run, one thread |" in (bundle.path / CARD).read_text()


def test_on_a_gpu_the_fused_graph_is_not_packed(make, speeds, on_gpu):
    speeds(plain=3.0, fused=2.0)
    assert not Classifier.load(Bundle.open(make("fp32").path)).packed


def test_on_a_gpu_variants_are_timed_in_runs_of_many_texts(make, monkeypatch, on_gpu):
    given = []

    def measure(graphs, *_, rows):
        given.append(rows)
        return Speeds({name: np.ones(1) for name in graphs})

    monkeypatch.setattr(selection, "measure", measure)
    bundle = make("fp32")
    assert given == [50]
    assert bundle.manifest.measured["rows"] == 50


def test_an_fp16_graph_whose_values_are_too_large_does_not_stop_an_export(make, speeds, on_gpu, overflow):
    speeds(plain=3.0, fused=2.0, int8=2.5, fp16=1.0)
    bundle = make("auto")
    assert bundle.manifest.variant == FUSED
    assert "fp16 was not taken (fp16: agreement with fp32: 0, required 0.5)" in bundle.manifest.measured["reason"]


def test_a_multi_label_student_becomes_a_multi_label_bundle(make, students, validation):
    student = dataclasses.replace(students["static"], multi_label=True)
    bundle = make("fp32", student=student, threshold=0.3)
    assert (bundle.manifest.multi_label, bundle.manifest.threshold) == (True, 0.3)
    logits = student.logits(validation.texts).astype(np.float64) / student.temperature
    np.testing.assert_allclose(answers(bundle, validation), 1 / (1 + np.exp(-logits)), atol=1e-3)
    assert "- Multi-label: a text has every label whose probability is at least 0.3" in (bundle.path / CARD).read_text()
    assert verify(bundle.path) == bundle


def test_the_labels_of_a_multi_label_student_are_what_int8_must_agree_on(make, students, monkeypatch):
    student = dataclasses.replace(students["static"], multi_label=True, temperature=2.0)
    seen = []
    agreement = gates.agreement
    monkeypatch.setattr(
        gates, "agreement", lambda *given, **named: seen.append(given[-1]) or agreement(*given, **named)
    )
    make("auto", student=student, threshold=0.75)
    make("auto", family="static", path="single")
    assert seen == [*[pytest.approx(2 * np.log(3))] * 6, *[None] * 6]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 2.0])
def test_a_threshold_is_a_probability(make, threshold):
    with pytest.raises(ValueError, match="threshold: expected a probability"):
        make("fp32", threshold=threshold)


def test_a_graph_without_attention_is_not_fused(make):
    assert set(make(family="static").manifest.measured["variants"]) == {PLAIN, INT8, INT8_QDQ, INT8_DYNAMIC}


def test_a_slower_int8_graph_is_not_taken_and_the_card_says_why(make, speeds, validation, students):
    speeds(plain=3.0, fused=2.0, int8=2.5)
    bundle = make("auto")
    assert bundle.manifest.variant == FUSED
    why = "int8 was not taken (int8: share of fp32's time: 1.25, required 0.95)"
    assert why in bundle.manifest.measured["reason"]
    assert why in (bundle.path / CARD).read_text()
    gate = bundle.manifest.gates["int8: share of fp32's time"]
    assert gate == {**gate, "measured": 1.25, "required": 0.95, "passed": False}
    np.testing.assert_allclose(answers(bundle, validation), expected(students["encoder"], validation.texts), atol=1e-3)


def test_a_wrong_int8_graph_is_not_taken_and_the_card_says_why(make, corrupt):
    bundle = make("auto")
    assert bundle.manifest.variant == FUSED
    gate = bundle.manifest.gates["int8: agreement with fp32"]
    assert gate["measured"] < gate["required"] == 0.5
    assert not gate["passed"]
    why = f"int8: agreement with fp32: {gate['measured']:.4g}, required 0.5"
    assert why in bundle.manifest.measured["reason"]
    card = (bundle.path / CARD).read_text()
    assert why in card
    assert f"| int8: agreement with fp32 | {gate['measured']:.6g} | 0.5 | no |" in card


@pytest.mark.parametrize(
    ("variant", "fixtures", "message"),
    [
        (
            "int8",
            (),
            rf"small, int8 graph does not pass: int8: share of fp32's time: 1\.25, required 0\.95\. {AUTO}\.$",
        ),
        ("int8", ["corrupt"], rf"int8: agreement with fp32: 0[.\d]*, required 0\.5.*{AUTO}\.$"),
        ("fp16", ["overflow"], rf"fp16: agreement with fp32: 0, required 0\.5\. {AUTO}\.$"),
        (
            "fp16",
            ["on_gpu"],
            rf"small, fp16 graph does not pass: fp16: share of fp32's time: 1\.25, required 0\.95\. {AUTO}\.$",
        ),
    ],
)
def test_a_graph_that_was_asked_for_and_does_not_pass_is_an_error_with_a_remedy_that_helps(
    make, speeds, request, tmp_path, variant, fixtures, message
):
    for name in fixtures:
        request.getfixturevalue(name)
    speeds(plain=3.0, fused=2.0, int8=2.5, fp16=2.5)
    with pytest.raises(GateError, match=message):
        make(variant)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("variant", "owner", "name"), [("plain", module, "export_onnx"), ("fused", variants, "fuse")])
def test_a_graph_that_does_not_compute_what_was_trained_is_an_error(
    make, monkeypatch, tmp_path, students, variant, owner, name
):
    def write_another(source, target, *_):
        export_onnx(students["static"], target)
        return target

    monkeypatch.setattr(owner, name, write_another)
    with pytest.raises(GateError) as refused:
        make("fp32")
    assert f"small, {variant} graph does not pass: parity: largest difference of a logit" in str(refused.value)
    assert "required 0.001" in str(refused.value)
    assert "parity: share of equal choices" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_the_bundle_that_stands_there(make, speeds):
    bundle = make("fp32", family="static")
    speeds(plain=3.0, int8=3.5)
    with pytest.raises(GateError):
        make("int8", family="static")
    assert verify(bundle.path) == bundle


def test_the_bundle_answers_what_the_student_does(make, student, validation):
    bundle = make("fp32", student=student)
    assert bundle.manifest.family == student.network.family
    np.testing.assert_allclose(answers(bundle, validation), expected(student, validation.texts), atol=1e-3)


def test_the_manifest_says_what_the_student_is_and_where_it_came_from(built, students):
    manifest = built["fp32"].manifest
    student = students["encoder"]
    assert (manifest.name, manifest.role, manifest.labels) == ("small", "student", student.labels)
    assert (manifest.max_tokens, manifest.temperature) == (student.max_tokens, student.temperature)
    assert manifest.teacher == {"name": "local:big", "version": "v7"}
    assert manifest.cpu["machine"]
    assert set(manifest.libraries) >= {"reflux", "onnx", "torch", "transformers", "tokenizers", "numpy"}
    assert manifest.measured["bytes"] > 0


@pytest.mark.parametrize("variant", ["fp32", "auto"])
def test_agreement_and_reference_are_those_of_the_graph_that_is_served(built, baseline, variant):
    bundle = built[variant]
    probabilities = answers(bundle, baseline.validation)
    disagree = probabilities.argmax(1) != baseline.teacher.argmax(1)
    assert bundle.manifest.measured["validation_agreement"] == pytest.approx(1 - disagree.mean())
    assert bundle.manifest.measured["validation_rows"] == len(disagree)
    reference = Reference.open(bundle)
    assert reference.rows.sum() == len(disagree)
    assert reference.disagreements.sum() == disagree.sum()
    assert reference.confidence[0] == pytest.approx(probabilities.max(1).min())
    assert reference.confidence[-1] == pytest.approx(probabilities.max(1).max())


def test_golden_rows_are_the_graphs_own_answers_spread_over_validation(built, validation):
    bundle = built["auto"]
    rows = bundle.golden()
    assert len(rows) == 32
    places = [validation.texts.index(row.text) for row in rows]
    assert places == sorted(set(places))
    assert places[-1] > len(validation) * 0.9
    for row, own in zip(rows, answers(bundle, validation)[places], strict=True):
        np.testing.assert_allclose(row.probabilities, own, atol=1e-6)
        assert row.label == bundle.manifest.labels[own.argmax()]
    assert verify(bundle.path) == bundle


@pytest.mark.parametrize(("count", "taken"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (7, [0, 1, 3, 5]), (8, [0, 2, 4, 6])])
def test_a_choice_of_rows_is_spread_evenly(count, taken):
    assert list(selection.evenly_spaced(range(count), 4)) == taken


def test_anchors_are_validation_rows_with_what_the_teacher_itself_said(make, baseline, labels):
    """Calibration may put another label first; the teacher that is asked again is not calibrated."""
    raw = np.roll(baseline.teacher, 1, axis=1)
    settings = {"family": "static", "baseline": dataclasses.replace(baseline, raw=raw)}
    expected = {text: labels[row.argmax()] for text, row in zip(baseline.validation.texts, raw, strict=True)}
    anchors = read_anchors(make("fp32", **settings))
    assert {anchor.text: anchor.label for anchor in anchors} == expected
    assert read_anchors(make("fp32", role="teacher", path="teacher", **settings)) == []


def test_few_rows_are_enough(make, baseline):
    few = Baseline(baseline.validation.take([0, 1]), baseline.teacher[:2])
    bundle = make("fp32", family="static", baseline=few)
    assert len(bundle.golden()) == 2
    assert verify(bundle.path) == bundle


def test_the_tokenizer_cuts_where_the_student_does(built, students):
    bundle = built["fp32"]
    student = students["encoder"]
    answer = Classifier.load(bundle).classify("invoice " * 100)
    assert answer.tokens == len(student.encode(["invoice " * 100])[0]) == student.max_tokens
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    assert tokenizer.truncation["max_length"] == student.max_tokens
    assert tokenizer.padding is None


def test_one_student_gives_one_version_at_any_time_and_place(make, built, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert make("fp32").manifest.version == built["fp32"].manifest.version


def test_another_student_gives_another_version(make, students):
    colder = dataclasses.replace(students["static"], temperature=1.0)
    one, other = make("fp32", family="static"), make("fp32", student=colder, path="elsewhere")
    assert other.manifest.version != one.manifest.version


def test_graphs_are_compared_on_validation_alone(make, baseline):
    judged = Test(baseline.validation.ids, baseline.validation.texts, baseline.validation.gold)
    with pytest.raises(TypeError, match="expected a Validation split, got a Test split"):
        make("fp32", baseline=Baseline(judged, baseline.teacher))  # type: ignore[arg-type]


def test_the_card_tells_people_what_the_manifest_tells_programs(built):
    bundle = built["auto"]
    card = (bundle.path / CARD).read_text()
    manifest = bundle.manifest
    for part in (
        "# small",
        "family `encoder` over 4 labels",
        "graph variant `int8`",
        "Teacher: local:big, version v7",
        f"{manifest.measured['validation_agreement']:.4f}",
        "at most 24 tokens",
        f"- Temperature {manifest.temperature:.4f}, fitted to this graph (the student's: 1.7000;",
        "| fused | 2.000 | 1.000 | 1.0000 |",
        "| int8 | 1.000 | 0.500 |",
        "| int8-qdq | 1.300 | 0.650 |",
        ", ".join(manifest.labels),
        *(f"| {name} | " for name in manifest.gates),
    ):
        assert part in card, part


@pytest.mark.parametrize(
    ("teacher", "lines"),
    [
        ({"name": "local:big", "version": "v7"}, ["- Teacher: local:big, version v7"]),
        (
            {"name": "m", "version": "1", "calibration": {"method": "temperature", "temperature": 1.84321}},
            ["- Teacher: m, version 1", "- Its answers were calibrated on gold labels, by a temperature of 1.8432"],
        ),
        (
            {
                "name": "m",
                "version": "1",
                "calibration": {"method": "vector", "scale": [1, 2], "bias": [0, 0]},
                "terms": [
                    {"acknowledged": True, "reference": "one"},
                    {"acknowledged": True, "reference": "two", "permission": "our contract"},
                ],
            },
            [
                "- Teacher: m, version 1",
                "- Its answers were calibrated on gold labels, by a scale and a bias per label",
                "- Its terms were acknowledged: one",
                "- Its terms were acknowledged: two; permission to train on its answers: our contract",
            ],
        ),
        ({}, ["- Teacher: unknown, version unknown"]),
    ],
)
def test_the_card_says_whom_the_student_learned_from_and_on_what_terms(built, teacher, lines):
    bundle = built["auto"]
    text = card(dataclasses.replace(bundle.manifest, teacher=teacher), Reference.open(bundle)).splitlines()
    start = text.index(lines[0])
    assert text[start : start + len(lines)] == lines
    assert text[start + len(lines)].startswith("- Agreement with the teacher")
