"""A bundle that does not answer here as it did where it was made is not passed."""

import dataclasses

import pytest

from export.bundle.classifier import Classifier
from export.bundle.format import GOLDEN, MODEL, PORTABLE, Bundle, BundleError, golden_jsonl
from export.bundle.verify import check_golden, verify
from tests.support.tiny_bundle import rewritten


@pytest.fixture
def tie(tiny_bundle):
    """A golden row whose best two labels are equally probable."""
    return next(row for row in tiny_bundle.golden() if row.text == "my invoice is late")


def shifted(row, shift):
    return dataclasses.replace(row, probabilities=tuple(value + shift for value in row.probabilities))


def test_a_good_bundle_passes(tiny_bundle):
    assert verify(str(tiny_bundle.path)) == tiny_bundle


def with_portable(bundle, path, graph):
    """The bundle at another path, with a graph beside the served one."""
    return rewritten(bundle, path, {PORTABLE: graph}, portable=PORTABLE).path


def test_the_portable_graph_is_held_to_the_golden_texts_too(make_bundle, tiny_bundle, tmp_path):
    verify(with_portable(tiny_bundle, tmp_path / "good", tiny_bundle.path / MODEL))
    other = make_bundle(tmp_path / "other", flip={"invoice": "shipping"})
    with pytest.raises(BundleError, match=r"golden row \d+ of 6, '.*' \(portable\.onnx\): a probability is off"):
        verify(with_portable(tiny_bundle, tmp_path / "bad", other.path / MODEL))


def test_a_portable_graph_that_is_none_is_refused_by_name(tiny_bundle, tmp_path):
    with pytest.raises(BundleError, match=r"portable\.onnx: not an ONNX graph"):
        verify(with_portable(tiny_bundle, tmp_path / "bad", b""))


def test_a_multi_label_bundle_passes(make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", multi_label=True)
    assert verify(bundle.path).manifest.multi_label
    assert any(sum(row.probabilities) > 1.1 for row in bundle.golden())


def test_another_label_fails_with_its_text_and_both_labels(rewrite, golden):
    other = next(label for label in ("billing", "shipping") if label != golden.label)
    path = rewrite({GOLDEN: golden_jsonl([golden, dataclasses.replace(golden, label=other)])})
    with pytest.raises(BundleError) as refused:
        verify(path)
    assert str(refused.value) == (
        f"{path / GOLDEN}: golden row 2 of 2, {golden.text!r}: this CPU answers {golden.label!r}, expected {other!r} "
        "(a probability is off by 0.000); export the bundle again on a machine like this one"
    )


@pytest.mark.parametrize(("shift", "fits"), [(0.019, True), (-0.019, True), (0.021, False), (-0.021, False)])
def test_a_probability_may_be_off_by_the_tolerance(rewrite, golden, shift, fits):
    path = rewrite({GOLDEN: golden_jsonl([golden, shifted(golden, shift)])})
    if fits:
        verify(path)
    else:
        message = rf"golden row 2 of 2, '{golden.text}': a probability is off by 0\.021, allowed are 0\.02"
        with pytest.raises(BundleError, match=message):
            verify(path)


def test_a_near_tie_may_fall_either_way_unless_its_probabilities_moved(rewrite, tie):
    other = dataclasses.replace(tie, label="shipping")
    verify(rewrite({GOLDEN: golden_jsonl([other])}))
    with pytest.raises(BundleError, match=r"off by 0\.030"):
        verify(rewrite({GOLDEN: golden_jsonl([shifted(other, 0.03)])}))


def test_a_text_that_the_graph_fails_on_fails(rewrite, golden):
    with pytest.raises(BundleError, match="row 1 of 1, 'poison': the graph returned"):
        verify(rewrite({GOLDEN: golden_jsonl([dataclasses.replace(golden, text="poison")])}))


def test_a_long_text_is_cut_in_the_message(rewrite, golden):
    long = dataclasses.replace(golden, text=golden.text + " my" * 1000, probabilities=golden.probabilities[::-1])
    with pytest.raises(BundleError) as refused:
        verify(rewrite({GOLDEN: golden_jsonl([long])}))
    assert len(str(refused.value)) < 400


def test_another_bundles_classifier_fails(tiny_bundle, tiny_teacher):
    check_golden(tiny_bundle, Classifier.load(tiny_bundle))
    with pytest.raises(BundleError, match=r"golden row \d of \d"):
        check_golden(tiny_bundle, Classifier.load(Bundle.open(tiny_teacher.path)))
