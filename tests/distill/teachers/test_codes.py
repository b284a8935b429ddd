from __future__ import annotations

import math

import numpy as np
import pytest

from distill.teachers.codes import codes, order_of, read

IDENTITY = (0, 1, 2)


def top(**probabilities: float) -> list[tuple[str, float]]:
    return [(token, math.log(p)) for token, p in probabilities.items()]


def truth(count: int, generator: np.random.Generator) -> dict[str, float]:
    """A next-token distribution over the surface forms of all codes and two hundred other tokens."""
    forms = [
        form for code in codes(count) for form in dict.fromkeys((code, f" {code}", code.lower(), f" {code.lower()}"))
    ]
    tokens = [*forms, *(f"word{index}" for index in range(200))]
    return dict(zip(tokens, generator.dirichlet(np.full(len(tokens), 0.03)), strict=True))


def test_up_to_26_labels_get_letters_and_more_get_numbers_of_one_length() -> None:
    assert codes(3) == ("A", "B", "C")
    assert codes(27)[:2] == ("100", "101")
    assert {len(code) for code in codes(900)} == {3}
    with pytest.raises(ValueError, match="901 labels"):
        codes(901)


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


@pytest.mark.parametrize("count", [5, 20, 77])
def test_the_true_mass_lies_within_the_bounds(count: int) -> None:
    generator = np.random.default_rng(count)
    for _ in range(50):
        tokens = truth(count, generator)
        exact = np.zeros(count)
        for token, mass in tokens.items():
            code = token.strip().upper()
            if code in codes(count):
                exact[codes(count).index(code)] += mass
        listed = sorted(tokens.items(), key=lambda item: -item[1])[:20]
        reading = read([(token, math.log(mass)) for token, mass in listed if mass > 0], range(count))
        assert (reading.lower <= exact + 1e-9).all()
        assert (exact <= reading.upper + 1e-9).all()


def test_texts_take_turns_with_a_few_orders_and_keep_theirs() -> None:
    orders = {order_of(f"text {number}", 10, 4) for number in range(200)}
    assert len(orders) == 4
    assert tuple(range(10)) in orders
    assert order_of("text", 10, 4) == order_of("text", 10, 4)
    assert {order_of(f"text {number}", 10, 1) for number in range(50)} == {tuple(range(10))}
