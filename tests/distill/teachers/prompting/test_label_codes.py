from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.teachers.prompting.label_codes import forms, label_codes, letter_pairs, order_of, read, read_all

IDENTITY = (0, 1, 2)


def top(**probabilities: float) -> list[tuple[str, float]]:
    return [(token, math.log(p)) for token, p in probabilities.items()]


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, dict[str, float], int, str]:
    """K, a next-token distribution, how many tokens are listed, and which one was sampled.

    The tokens are forms of codes, tokens that look like codes and are none, and others; few or many have mass.
    """
    count = draw(st.sampled_from([2, 3, 15, 26, 27, 77]))
    said = [form for code in label_codes(count) for form in forms(code)]
    others = [*(f"word{index}" for index in range(40)), "\nA", "  A", "A.", "AA", "1", "10", "\u0131", "Ａ", "<think>"]
    tokens = [token for token in [*said, *others] if draw(st.integers(0, 3))] or ["A"]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mass = generator.dirichlet(np.full(len(tokens), draw(st.sampled_from([0.02, 0.2, 2.0]))))
    listed = draw(st.sampled_from([1, 5, 20, 50]))
    return count, dict(zip(tokens, mass, strict=True)), listed, draw(st.sampled_from(tokens))


def own_mass(count: int, tokens: dict[str, float]) -> np.ndarray:
    return np.array([sum(tokens.get(form, 0.0) for form in forms(code)) for code in label_codes(count)])


def test_up_to_26_labels_get_letters_and_more_get_numbers_of_one_length() -> None:
    assert label_codes(3) == ("A", "B", "C")
    assert label_codes(27)[:2] == ("100", "101")
    assert {len(code) for code in label_codes(900)} == {3}
    with pytest.raises(ValueError, match="901 labels"):
        label_codes(901)


def test_surface_forms_of_a_code_add_up() -> None:
    reading = read([*top(A=0.4, B=0.2), (" A", math.log(0.1)), ("a", math.log(0.1)), ("The", math.log(0.2))], IDENTITY)
    assert reading.covered == pytest.approx(0.8)
    assert reading.lower == pytest.approx([0.6, 0.2, 0.0])


def test_what_was_not_listed_is_bounded_by_the_tail_and_by_the_least_that_was() -> None:
    reading = read(top(A=0.6, B=0.3), IDENTITY)
    assert reading.tail == pytest.approx(0.1)
    assert reading.probabilities == pytest.approx([0.6, 0.3, 0.1])
    narrow = read(top(A=0.6, B=0.3, the=0.02), IDENTITY)
    assert narrow.probabilities[2] == pytest.approx(0.02 / 0.92, rel=1e-5)


def test_no_label_has_no_mass_at_all() -> None:
    assert (read(top(A=0.9, x=0.05), IDENTITY).probabilities > 0).all()


def test_a_first_digit_is_nobodys_code() -> None:
    assert read(top(**{"1": 0.9, "2": 0.05}), tuple(range(40))).covered == 0


def test_codes_stand_for_the_labels_of_their_order() -> None:
    assert read(top(A=0.7, B=0.2, C=0.1), (2, 0, 1)).probabilities == pytest.approx([0.2, 0.1, 0.7])


@pytest.mark.parametrize("appended", [False, True])
@given(answer=answers())
@settings(max_examples=150, deadline=None)
def test_bounds_hold_whatever_the_distribution_and_wherever_the_list_ends(answer, appended: bool) -> None:
    """`appended`: servers that list the sampled token, whatever its rank, in the place of the last."""
    count, tokens, size, sampled = answer
    ranked = sorted(tokens.items(), key=lambda item: -item[1])[:size]
    if appended and sampled not in dict(ranked):
        ranked[-1] = (sampled, tokens[sampled])
    listed = [(token, math.log(mass) if mass > 0 else -9999.0) for token, mass in ranked]
    reading = read(listed, range(count), sampled if appended else None)
    exact = own_mass(count, tokens)
    lower, upper = reading.lower, reading.upper
    assert (lower <= exact + 1e-9).all()
    assert (exact <= upper + 1e-9).all()
    assert exact.sum() <= lower.sum() + reading.tail + 1e-9
    assert reading.probabilities.sum() == pytest.approx(1, abs=1e-5)

    # Given that a label is answered, each has a share between what is left of it when all else on labels is as much as
    # it can be, and what it is when all else is as little.
    others_least = lower.sum() - lower
    others_most = np.minimum(upper.sum() - upper, others_least + reading.tail)
    with np.errstate(invalid="ignore"):
        least = np.nan_to_num(lower / (lower + others_most))
        most = np.nan_to_num(upper / (upper + others_least), nan=1.0)
    if lower.sum() + reading.tail > 1e-12:
        assert (least - 1e-6 <= reading.probabilities).all()
        assert (reading.probabilities <= most + 1e-6).all()
        if exact.sum() > 1e-9:
            away = np.abs(reading.probabilities - exact / exact.sum()).sum() / 2
            assert away <= reading.bound + 1e-5


@given(answer=answers())
@settings(max_examples=50, deadline=None)
def test_where_every_code_is_known_the_distribution_is_exact(answer) -> None:
    count, tokens, _, _ = answer
    exact = own_mass(count, tokens)
    reading = read_all(exact.tolist(), range(count))
    assert (reading.lower == exact).all()
    assert (reading.upper == exact).all()
    if exact.sum() > 1e-9:
        assert reading.probabilities == pytest.approx(exact / exact.sum(), abs=1e-6)
        assert reading.bound == 0


@pytest.mark.parametrize("token", ["A", " A", "a", " a", "▁A", "Ġa"])
def test_what_says_a_code(token: str) -> None:
    assert read([(token, math.log(0.9))], IDENTITY).lower == pytest.approx([0.9, 0, 0])


@pytest.mark.parametrize("token", ["\nA", "  A", "A ", "A.", "AA", "Ａ", "Á", "▁▁A", "1", ""])
def test_what_says_none(token: str) -> None:
    assert read([(token, math.log(0.9))], IDENTITY).covered == 0


def test_a_letter_that_upper_case_makes_another_is_not_its_code() -> None:
    assert read([("\u0131", math.log(0.9))], range(26)).covered == 0  # a dotless i


def test_one_that_was_sampled_from_beyond_the_list_bounds_nothing() -> None:
    listed = [*top(A=0.5, B=0.2), ("zebra", math.log(1e-9))]
    assert read(listed, IDENTITY, "zebra").upper[2] >= 0.2
    assert read(listed, IDENTITY).upper[2] < 1e-6


def test_an_answer_that_ended_at_once_says_nothing() -> None:
    reading = read([], IDENTITY)
    assert (reading.covered, reading.tail, reading.bound) == (0, 1, 1)
    assert reading.probabilities == pytest.approx([1 / 3] * 3)


def test_texts_take_turns_with_a_few_orders_and_keep_theirs() -> None:
    orders = {order_of(f"text {number}", 10, 4) for number in range(200)}
    assert len(orders) == 4
    assert tuple(range(10)) in orders
    assert order_of("text", 10, 4) == order_of("text", 10, 4)
    assert {order_of(f"text {number}", 10, 1) for number in range(50)} == {tuple(range(10))}


def test_pairs_are_no_words_that_a_model_might_begin_to_speak_with() -> None:
    assert len(set(letter_pairs())) == len(letter_pairs()) > 550
    assert not {"IN", "OF", "NO", "US", "IT"} & set(letter_pairs())


def test_other_codes_are_read_as_the_usual_ones_are() -> None:
    listed = [(" AB", math.log(0.5)), ("ac", math.log(0.2)), ("A", math.log(0.1))]
    reading = read(listed, (2, 0, 1), names=("AA", "AB", "AC"))
    assert reading.lower == pytest.approx([0.5, 0.2, 0.0])
    assert reading.covered == pytest.approx(0.7)
