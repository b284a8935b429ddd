from __future__ import annotations

import pytest

from distill.teachers.api.pricing import Price, Usage, _prices, known_price
from distill.teachers.errors import TeacherError

HOST = "api.openai.com"


def test_each_kind_of_token_has_its_price() -> None:
    price = Price(input=2.0, cached=0.5, cache_write=2.5, output=8.0)
    usage = Usage(input=10, cached=100, cache_write=1000, output=3)
    assert price.cost(usage) == pytest.approx((10 * 2.0 + 100 * 0.5 + 1000 * 2.5 + 3 * 8.0) / 1e6)
    assert usage.total == 1113


def test_what_has_no_price_of_its_own_costs_what_new_input_does() -> None:
    assert Price(input=2.0, output=8.0).cost(Usage(cached=1, cache_write=1)) == pytest.approx(4e-6)


@pytest.mark.parametrize("price", [Price(input=2, output=8), Price(input=2, cached=3, cache_write=4, output=8)])
def test_no_use_of_a_cache_costs_more_than_the_worst(price: Price) -> None:
    for usage in (
        Usage(input=100),
        Usage(cached=100),
        Usage(cache_write=100),
        Usage(input=1, cached=50, cache_write=49),
    ):
        assert price.cost(Usage(usage.input, usage.cached, usage.cache_write, 7)) <= price.max_cost(100, 7)


@pytest.mark.parametrize(
    ("model", "as_of"), [("gpt-4.1-mini", "gpt-4.1-mini"), ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini")]
)
def test_a_dated_model_costs_what_its_name_does(model: str, as_of: str) -> None:
    assert known_price(HOST, model) == Price.model_validate(_prices()[HOST]["models"][as_of])


@pytest.mark.parametrize(
    ("host", "model"),
    [(HOST, "gpt-4.1-mini-turbo"), (HOST, "gpt-4.1-mini-2"), (HOST, "gpt-4"), ("localhost", "gpt-4.1-mini"), ("", "")],
)
def test_a_price_that_is_not_known_is_not_guessed(host: str, model: str) -> None:
    with pytest.raises(TeacherError, match=r"no price is known.*usd_per_million"):
        known_price(host, model)


def test_every_price_in_the_file_says_when_and_where_it_was_read() -> None:
    for host, entry in _prices().items():
        assert entry["source"].startswith("https://")
        assert entry["read"]
        for model in entry["models"]:
            assert known_price(host, model).input > 0  # the answers of a decision model are free
