"""A gate passes at its limit, fails beyond it, and says by how much."""

import numpy as np
import pytest

from export.gates import Gate, GateError, agreement, enforce, faster, parity, remedy

LOGITS = np.array([[4.0, 0.0, -4.0], [0.0, 4.0, -4.0], [-4.0, 0.0, 4.0], [4.0, -4.0, 0.0]])


def passed(gates):
    return [gate.passed for gate in gates]


@pytest.mark.parametrize(("shift", "passes"), [(0.0, True), (0.25, True), (0.2500001, False), (-0.26, False)])
def test_parity_holds_up_to_its_limit(shift, passes):
    moved = LOGITS.copy()
    moved[2, 1] += shift
    gates = parity(LOGITS, moved, 0.25)
    assert passed(gates) == [passes, True]
    assert gates[0].measured == pytest.approx(abs(shift))
    assert gates[0].required == 0.25


def test_parity_wants_every_choice_the_same():
    other = LOGITS.copy()
    other[1] = [4.0, 0.0, -4.0]
    gates = parity(LOGITS, other, 10.0)
    assert passed(gates) == [True, True]  # with such a limit nothing is decided
    gates = parity(LOGITS, other, 1.0)
    assert passed(gates) == [False, False]
    assert gates[1].measured == 0.75


def test_rows_that_the_limit_leaves_undecided_may_choose_either():
    tied = np.array([[1.0, 1.0, 0.0], [1.0, 0.6, 0.0]])
    other = np.array([[0.9, 1.1, 0.0], [0.75, 0.85, 0.0]])
    assert passed(parity(tied, other, 0.25)) == [True, True]
    assert passed(parity(tied, other, 0.1)) == [False, False]


def test_values_that_are_not_numbers_never_pass():
    broken = np.full_like(LOGITS, np.nan)
    assert passed(parity(LOGITS, broken, 1e9))[0] is False
    assert passed(parity(LOGITS, LOGITS + np.inf, 1e9))[0] is False


@pytest.mark.parametrize(("least", "passes"), [(0.75, True), (0.76, False), (1.0, False)])
def test_agreement_holds_down_to_its_limit(least, passes):
    other = LOGITS.copy()
    other[0] = [0.0, 4.0, -4.0]
    gate = agreement("int8", LOGITS, other, least)
    assert (gate.name, gate.measured) == ("int8: agreement with fp32", 0.75)
    assert (gate.required, gate.passed) == (least, passes)
    assert agreement("int8", LOGITS, LOGITS * 0.1 + 7, 1.0).passed  # it looks at choices alone


def test_where_a_row_may_have_several_labels_all_of_them_must_agree():
    reference = np.array([[2.0, 1.5, -1.0], [3.0, -2.0, -1.0], [-1.0, -1.0, -2.0], [0.0, 5.0, 5.0]])
    other = reference.copy()
    other[0] = [2.0, 0.9, -1.0]  # the most probable label stays, the second one goes
    assert agreement("fp16", reference, other, 0.9).measured == 1.0
    gate = agreement("fp16", reference, other, 0.9, cut=1.0)
    assert (gate.measured, gate.passed) == (0.75, False)
    assert agreement("fp16", reference, reference, 1.0, cut=1.0).passed


@pytest.mark.parametrize("cut", [None, 0.0])
def test_a_graph_that_failed_agrees_with_nothing(cut):
    gate = agreement("fp16", LOGITS, None, 0.5, cut)
    assert (gate.name, gate.measured, gate.passed) == ("fp16: agreement with fp32", 0.0, False)


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (0.95, True), (0.951, False), (1.2, False)])
def test_a_graph_that_is_hardly_faster_is_not(share, passes):
    gate = faster("int8", share)
    assert (gate.name, gate.measured, gate.required, gate.passed) == ("int8: share of fp32's time", share, 0.95, passes)


def test_what_fails_is_named_with_its_numbers_and_the_remedy():
    enforce([Gate("one", 1.0, 2.0, True)], "the graph", "nothing")
    gates = [Gate("first", 0.125, 0.1, False), Gate("second", 1.0, 2.0, True), Gate("third", 0.5, 0.99, False)]
    with pytest.raises(GateError) as refused:
        enforce(gates, "small, int8 graph", "Loosen the gate.")
    assert str(refused.value) == (
        "small, int8 graph does not pass: first: 0.125, required 0.1; third: 0.5, required 0.99. Loosen the gate."
    )


@pytest.mark.parametrize(
    ("share", "time", "loosened"),
    [(0.98, 0.5, True), (0.98, 1.1, False), (1.0, 1.1, False), (0.0, 0.5, False)],
)
def test_a_lower_gate_is_a_remedy_only_where_it_can_make_the_graph_pass(share, time, loosened):
    checks = [Gate("int8: agreement with fp32", share, 0.99, share >= 0.99), faster("int8", time)]
    more = ", or lower export.gates.agreement" if loosened else ""
    assert remedy(checks) == f"Set export.variant to auto to serve what passes{more}."
