"""What redaction removes and what it leaves, one line per case; and what holds for any text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.shadow.redaction import redact as module
from service.shadow.redaction.folding import fold
from service.shadow.redaction.identifiers import is_iban, passes_luhn
from service.shadow.redaction.kinds import KINDS
from service.shadow.redaction.redact import redact

GO = [  # a text, what is left of it
    # addresses of mail
    ("write to jane.doe+x@mail.example.co.uk.", "write to <EMAIL>."),
    ("an.na@exämple.de, bob@b.org", "<EMAIL>, <EMAIL>"),
    ("mailto:o'brien@example.ie?subject=hi", "mailto:<EMAIL>?subject=hi"),
    ("jane＠example．com please", "<EMAIL> please"),
    ("jane\u200b.doe@exam\u00adple.com ok", "<EMAIL> ok"),
    # cards
    ("card 4111 1111 1111 1111 123 please", "card <CARD> 123 please"),
    ("card ４１１１ １１１１ １１１１ １１１１ bitte", "card <CARD> bitte"),
    ("card 4111\u00a01111\u00a01111\u00a01111", "card <CARD>"),
    ("card 4111–1111–1111–1111", "card <CARD>"),
    ("card 4111\u20111111\u20111111\u20111111", "card <CARD>"),
    ("card 4111\u22121111\u22121111\u22121111", "card <CARD>"),
    ("card 4111\u202f1111\u202f1111\u202f1111", "card <CARD>"),
    ("card 41\u200b1111\u200b11111\u206011111", "card <CARD>"),
    ("بطاقة ٤١١١١١١١١١١١١١١١ شكرا", "بطاقة <CARD> شكرا"),
    ("amex 3782 822463 10005, visa 4012888888881881.", "amex <CARD>, visa <CARD>."),
    ("4111.1111.1111.1111 or 4111/1111/1111/1111", "<CARD> or <CARD>"),
    ("mastercard 5555555555554444, exp 12/26", "mastercard <CARD>, exp 12/26"),
    ("order 12 4111-1111-1111-1111", "order 12 <CARD>"),
    # bank accounts
    ("pay DE89 3704 0044 0532 0130 00 and wait", "pay <IBAN> and wait"),
    ("IBAN: DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "IBAN: <IBAN>"),
    ("gb82WEST12345698765432 WITH love", "<IBAN> WITH love"),
    ("AB12 DE89370400440532013000", "AB12 <IBAN>"),
    ("ＤＥ８９３７０４００４４０５３２０１３０００!", "<IBAN>!"),
    ("FR14-2004-1010-0505-0001-3M02-606", "<IBAN>"),
    # social security numbers
    ("my SSN is 123-45-6789.", "my SSN is <SSN>."),
    ("123-45-6789 is mine", "<SSN> is mine"),
    ("123‑45‑6789", "<SSN>"),
    ("１２３－４５－６７８９", "<SSN>"),
    ("social security number: 123 45 6789", "social security number: <SSN>"),
    ("ssn 123456789", "ssn <SSN>"),
    # telephones, whatever the country
    ("call +49 (0)30 901820-0 or 030 1234567", "call <PHONE> or <PHONE>"),
    ("+49\u00a030\u00a0901820", "<PHONE>"),
    ("＋１ ４１５ ５５５ ２６７１", "<PHONE>"),
    ("+44 7911 123456/+1-415-555-2671", "<PHONE>/<PHONE>"),
    ("0049 30 901820 abends", "<PHONE> abends"),
    ("(415) 555-2671 / 415-555-2671 / +1 415.555.2671", "<PHONE> / <PHONE> / <PHONE>"),
    ("tel 06 12 34 56 78, 07700 900123", "tel <PHONE>, <PHONE>"),
    ("415‐555‐2671", "<PHONE>"),
    ("Tel.: 030/901820-0", "Tel.: <PHONE>"),
    ("+4930901820ext5", "<PHONE>ext5"),
    ("phone 07700 900123", "phone <PHONE>"),
    ("my number is on file, text me on 07700 900123 today", "my number is on file, text me on <PHONE> today"),
    ("mobile: 0612345678", "mobile: <PHONE>"),
    ("Sie erreichen mich unter (030) 901820", "Sie erreichen mich unter <PHONE>"),
    # keys
    ("key sk-proj-abcdefghijklmnop1234!", "key <SECRET>!"),
    ("sk-ant-api03-AbCdEfGhIjKlMnOpQrSt0123", "<SECRET>"),
    ("reflux_fOJQqib9Zt8PPT7RsntPSdAAJYT6XTCDIjlZ_ftDvuc does not work", "<SECRET> does not work"),
    ("X-API-Key: reflux_fOJQqib9Zt8PPT7RsntPSdAAJYT6XTCDIjlZ_ftDvuc", "X-API-Key: <SECRET>"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = <SECRET>"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123 AKIAIOSFODNN7EXAMPLE", "<SECRET> <SECRET>"),
    ("github_pat_11ABCDEFG0abcdefghijkl_mnopqrstu", "<SECRET>"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s5c_abc-DEF", "<SECRET>"),
    ("AccountName=x;AccountKey=abcdEFGH1234567890==", "AccountName=x;AccountKey=<SECRET>"),
    ("post to https://hooks.slack.com/services/T000/B000/XXXXabcd1234", "post to https://<SECRET>"),
    ("Authorization: Bearer abcdefghijklmnop1234==", "Authorization: <SECRET>"),
    ("curl -H 'Authorization: Basic dXNlcjpwYXNz'", "curl -H '<SECRET>'"),
    ("xoxb-1234567890-abcdefghij", "<SECRET>"),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- ok", "<SECRET> ok"),
    ("-----BEGIN PRIVATE KEY-----\ncut off", "<SECRET>"),
    ("https://admin:hunter2@example.com/x", "https://<SECRET>@example.com/x"),
    ("postgres://app:p@ss@db.example.com:5432/app", "postgres://<SECRET>@db.example.com:5432/app"),
    # passwords
    ("my password is hunter2", "my password is <SECRET>"),
    ("the password was Tr0ub4dor&3, sorry", "the password was <SECRET>, sorry"),
    ('password is "correct horse battery"', "password is <SECRET>"),
    ("password is “correct horse”.", "password is <SECRET>."),
    ("my password is swordfish.", "my password is <SECRET>."),
    ("the password for my account is correctHorse", "the password for my account is <SECRET>"),
    ("I set the password to Sommer2024!", "I set the password to <SECRET>!"),
    ("password has been changed to Winter!99 today", "password has been changed to <SECRET> today"),
    ("pwd: hunter22, API key = abcd1234", "pwd: <SECRET> API key = <SECRET>"),
    ("PASSWORD=hunter2 ./run", "PASSWORD=<SECRET> ./run"),
    ('{"password": "hunter2"}', '{"password": <SECRET>}'),
    ("Passwort lautet Geheim123", "Passwort lautet <SECRET>"),
    ("Passwort ist: Geheim123", "Passwort ist: <SECRET>"),
    ("mot de passe : Soleil75", "mot de passe : <SECRET>"),
    ("password hunter2 is refused", "password <SECRET> is refused"),
    ("the api key is abcd1234efgh", "the api key is <SECRET>"),
    ("my PIN is 4711", "my PIN is <SECRET>"),
    ("the access code: 998877", "the access code: <SECRET>"),
    ("The password I use is hunter2", "The password I use is <SECRET>"),
    ("passwords are hunter2 and hunter3", "passwords are <SECRET> and <SECRET>"),
    ("my password’s hunter2", "my password’s <SECRET>"),
    ("la password è Sole1975", "la password è <SECRET>"),
    ("il mio PIN è 4821, OTP 123-456", "il mio PIN è <SECRET>, OTP <SECRET>"),
    ("CVV 123, exp 12/26", "CVV <SECRET>, exp 12/26"),
    # addresses of machines
    ("from 10.0.0.1. to fe80::1: down", "from <IP>. to <IP>: down"),
    ("2001:db8:85a3::8a2e:370:7334 and ::ffff:1.2.3.4", "<IP> and <IP>"),
    ("login from １９２．１６８．０．１", "login from <IP>"),
    ("server 12.10.20.5 is down", "server <IP> is down"),
]

GO_WITH = [  # a country, a text, what is left of it
    ("DE", "bitte 030 1234567 anrufen", "bitte <PHONE> anrufen"),
    ("DE", "0171/1234567 oder 01711234567", "<PHONE> oder <PHONE>"),
    ("DE", "０３０ １２３４５６７", "<PHONE>"),
    ("FR", "06 12 34 56 78 ou 0612345678", "<PHONE> ou <PHONE>"),
    ("FR", "06.12.34.56.78", "<PHONE>"),
    ("JP", "03ー1234ー5678 or 03−1234−5678", "<PHONE> or <PHONE>"),
    ("FR", "06-12-34-56-78", "<PHONE>"),
    ("GB", "07700 900123, 020 7946 0958", "<PHONE>, <PHONE>"),
    ("US", "4155552671 or 555-123-4567", "<PHONE> or <PHONE>"),
    ("US", "5551234567", "<PHONE>"),
    ("IN", "9876543210 please", "<PHONE> please"),
    ("ES", "612 345 678", "<PHONE>"),
    ("IT", "06 12345678", "<PHONE>"),
]

STAY = [
    "",
    "my order 0123456789 is late",
    "order number 00451234567",
    "order no. 0012345678 and invoice 0300123456",
    "007 and 0800 and 0049",
    "article 030 1234567",
    "Bestellung 0301234567, Rechnung Nr. 0711-123456",
    "ticket #0987654321",
    "case 123-45-6789",
    "version 1.2.3.4",
    "upgraded from 1.2.3.4 to 1.2.3.5",
    "v10.20.30.40 and release 2.10.0.1",
    "firmware 1.0.4.2 or 1.0.4.3",
    "updating from 1.2.3.4, the 1.2.3.5 release, release notes 1.2.3.4, 0.1.2.3",
    "pip install tool==1.2.3.4",
    "app-1.2.3.4 and 1.2.3.4-beta",
    "section 4.3.2.1",
    "version 1.2.3, std::vector, 00:1A:2B:3C:4D:5E",
    "05.01.2024",
    "05.01.2024 - 12.01.2024",
    "05.01.2024–12.01.2024",
    "from 01/05/2024 to 12/31/2024",
    "2024-01-15 - 2024-02-15",
    "2024-01-15/2024-02-15",
    "20240115 20240215",
    "03.-05.02.2024",
    "2020-2024 and 01/2024 - 03/2024",
    "open 08:00-18:00, closed 00:00:00",
    "My invoice 12345 of 2024-01-15 10:30:45 over 1,234.56 EUR was late",
    "€ 1.234.567,89 or $2,345,678.90 or 0.99",
    "ISBN 978-3-16-148410-0 and 978-0-306-40615-7",
    "EAN 4006381333931",
    "4111 1111 1111 1112 is no card",
    "XX89 3704 0044",
    "550e8400-e29b-41d4-a716-446655440000",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "the password is wrong and the token expired",
    "my password is not working, the password is incorrect",
    "the password is required; the token was rejected.",
    "password is case-sensitive and 12 characters long",
    "the password is 128-bit encrypted",
    "the password is temporarily blocked. your password is weak!",
    "forgot password please help",
    "reflux_shadow_oldest_age_seconds and reflux_http_request_duration_seconds_bucket",
    "task-force sk-1 @home a@b",
    "sk-learn-contrib-packages and npm_config_registry_default_url",
    "https://example.com:8080/a@b",
    "10 x 20 x 30 cm, 24/7, 3-6-9, 50 % of 1000000",
    "48.137154, 11.576124",
    "ISO 27001:2022, RTX 4090, 90210-1234",
    "1Z999AA10123456784",
    "666-12-3456, 000-12-3456, 123-00-4567, 900-12-3456",
    "pin 12 of the connector",
    "0.5454545454545454, 299792458.00000, 6.666666666666667j, -8.2470971974947",
    "order 112-3456789-1234567",
    "x[::2] and y[0::2, 1::3] and ::1",
    "the first token is special. my password was reset... the token is (still invalid",
    "select a token to use as `pad_token`, what you pass to `requests.request`",
    "the API key is missing/expired, a token is base64-encoded, password is 8-16 characters",
    "we reach 2500000 customers, text=2310144",
    "Office 16.0.5430.1000, iOS 17.2.1.1, PO 4500012345",
    "call 911 about the text of 2024-01-15",
]


@pytest.mark.parametrize(
    ("text", "left", "countries"),
    [(text, left, ()) for text, left in GO] + [(text, left, (country,)) for country, text, left in GO_WITH],
)
def test_personal_data_and_secrets_become_placeholders(text, left, countries):
    assert redact(text, countries).text == left
    assert redact(left, countries).text == left


@pytest.mark.parametrize("countries", [(), ("DE",)])
@pytest.mark.parametrize("text", STAY)
def test_other_texts_stay_as_they_are(text, countries):
    assert redact(text, countries).text == text


def test_a_long_number_alone_is_no_phone_number():
    assert redact("0123456789").text == "0123456789"


@pytest.mark.parametrize("text", ["１２ äöü\u00a0– “x” ①", "日本語\u3000テスト\u200b。", "\u00ad\u200b"])
def test_characters_that_are_folded_for_matching_stay_in_the_text(text):
    assert redact(text).text == text
    assert redact(f"{text} a@b.org {text}").text == f"{text} <EMAIL> {text}"


def test_check_digits_tell_ibans_and_cards_from_other_codes():
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
    assert not is_iban("DE8937040044053201300")
    assert passes_luhn("4111111111111111")
    assert not passes_luhn("4111111111111112")


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
def test_the_rest_of_a_text_stays_as_it_was(text):
    kept = re.split("<(?:" + "|".join(KINDS) + ")>", redact(text).text)
    assert re.fullmatch(".*".join(map(re.escape, kept)), text, re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [("12345678:AA" + "x" * 33) * 500, "AKIA" * 1500, ("shpat_" + "a" * 32) * 500, ("eyJ" + "a" * 8 + "-") * 500],
)
def test_a_text_of_endless_secrets_takes_a_bounded_number_of_passes(text, monkeypatch):
    passes = 0

    def count(given):
        nonlocal passes
        passes += 1
        return fold(given)

    monkeypatch.setattr(module, "fold", count)
    left = redact(text).text
    assert "AA" not in left
    assert passes < 20
    assert redact(left).text == left


def test_national_numbers_are_redacted_anywhere_in_a_long_text():
    numbers = ["030 1234567", "0171/1234567", "01711234567"]
    for shift in range(0, 40, 3):  # also where it lies across the end of what is looked through closely
        text = "x " * 4_900 + "y" * shift + " " + " and ".join(numbers * 15) + " of 05.01.2024"
        left = redact(text, ("DE",)).text
        assert not re.search(r"1234567|030|017", left)
        assert left.endswith(" of 05.01.2024")


def test_many_dates_between_numbers_stay():
    text = "05.01.2024, call 030 1234567; 4111111111111111, 06.01.2024 - 07.01.2024; " * 200
    assert redact(text).text == "05.01.2024, call <PHONE>; <CARD>, 06.01.2024 - 07.01.2024; " * 200
