from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.shadow import redaction
from service.shadow.folding import fold
from service.shadow.redaction import KINDS, iban, luhn, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to <EMAIL>."),
        ("an.na@exämple.de, bob@b.org", "<EMAIL>, <EMAIL>"),
        ("card 4111 1111 1111 1111 123 please", "card <CARD> 123 please"),
        ("order 12 4111-1111-1111-1111", "order 12 <CARD>"),
        ("amex 378282246310005, visa 4012888888881881", "amex <CARD>, visa <CARD>"),
        ("pay DE89 3704 0044 0532 0130 00 and wait", "pay <IBAN> and wait"),
        ("gb82WEST12345698765432 WITH love", "<IBAN> WITH love"),
        ("AB12 DE89370400440532013000", "AB12 <IBAN>"),
        ("from 10.0.0.1. to fe80::1: down", "from <IP>. to <IP>: down"),
        ("2001:db8:85a3::8a2e:370:7334 and ::ffff:1.2.3.4", "<IP> and <IP>"),
        ("call +49 (0)30 901820-0 or 030 1234567", "call <PHONE> or <PHONE>"),
        ("(415) 555-2671 / 415-555-2671 / +1 415.555.2671", "<PHONE> / <PHONE> / <PHONE>"),
        ("tel 06 12 34 56 78, 07700 900123", "tel <PHONE>, <PHONE>"),
        ("key sk-proj-abcdefghijklmnop1234!", "key <SECRET>!"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123 AKIAIOSFODNN7EXAMPLE", "<SECRET> <SECRET>"),
        ("Authorization: Bearer abcdefghijklmnop1234==", "Authorization: <SECRET>"),
        ("password: hunter22, API key = abcd1234", "password: <SECRET> API key = <SECRET>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- ok", "<SECRET> ok"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "<SECRET>"),
    ],
)
def test_personal_data_and_secrets_become_placeholders(text, expected):
    assert redact(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "My invoice 12345 of 2024-01-15 10:30:45 over 1,234.56 EUR was late",
        "4111 1111 1111 1112 is no card",  # the check digit is wrong
        "XX89 3704 0044",
        "version 1.2.3, std::vector, 00:1A:2B:3C:4D:5E",
        "the password is wrong and the token expired",
        "task-force sk-1 @home a@b",
        "05.01.2024",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert redact(text).text == text


def test_a_wrong_iban_is_not_taken_for_one():
    assert iban("DE89370400440532013000")
    assert not iban("DE89370400440532013001")
    assert not iban("DE8937040044053201300")


def test_luhn_tells_card_numbers_from_digits():
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")


def test_kinds_are_counted():
    found = redact("a@b.org c@d.org 10.0.0.1").found
    assert found == {"EMAIL": 2, "IP": 1}
    assert set(found) <= set(KINDS)


PIECES = st.one_of(
    st.text(alphabet="ab1 4@.:-+=()<>0DE9sk_/\u00a0\u200b４–", max_size=20),
    st.sampled_from(
        ["password is ", "call ", "order ", "030 1234567", "hunter2", " or ", "1.2.3.4", "version ", "05.01.2024"]
    ),
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from([(), ("DE",), ("US", "FR")]))
def test_redacting_twice_changes_nothing_more(text, countries):
    once = redact(text, countries).text
    assert redact(once, countries).text == once


@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_not_replaced_stays_as_it_was(text):
    kept = re.split("<(?:" + "|".join(KINDS) + ")>", redact(text).text)
    assert re.fullmatch(".*".join(map(re.escape, kept)), text, re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [("12345678:AA" + "x" * 33) * 500, "AKIA" * 1500, ("shpat_" + "a" * 32) * 500, ("eyJ" + "a" * 8 + "-") * 500],
)
def test_of_secrets_without_end_nothing_is_left_to_look_through_again_and_again(text, monkeypatch):
    passes = 0

    def count(given):
        nonlocal passes
        passes += 1
        return fold(given)

    monkeypatch.setattr(redaction, "fold", count)
    left = redact(text).text
    assert "AA" not in left
    assert passes < 20
    assert redact(left).text == left


def test_a_number_of_a_country_goes_wherever_it_stands_in_a_long_text():
    numbers = ["030 1234567", "0171/1234567", "01711234567"]
    for shift in range(0, 40, 3):  # also where it lies across the end of what is looked through closely
        text = "x " * 4_900 + "y" * shift + " " + " and ".join(numbers * 15) + " of 05.01.2024"
        left = redact(text, ("DE",)).text
        assert not re.search(r"1234567|030|017", left)
        assert left.endswith(" of 05.01.2024")


def test_dates_between_numbers_stay_however_many_there_are():
    text = "05.01.2024, call 030 1234567; 4111111111111111, 06.01.2024 - 07.01.2024; " * 200
    assert redact(text).text == "05.01.2024, call <PHONE>; <CARD>, 06.01.2024 - 07.01.2024; " * 200
