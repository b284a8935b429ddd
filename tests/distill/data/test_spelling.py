"""Labels that are one label in two spellings are found, and shown so that the difference can be seen."""

import pytest

from distill.data.spelling import plain, same_spelling, shown, spelling_variants


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Refund", "refund"),
        ("straße", "STRASSE"),
        ("card  arrival", "card arrival"),
        ("card\xa0arrival", "card arrival"),
        ("card\u3000arrival", "card arrival"),
        ("card_arrival", "card arrival"),
        ("re\u200bfund", "refund"),
        ("refund\ufeff", "refund"),
        ("re\u00adfund", "refund"),
        ("re\u200dfund", "refund"),
        ("cafe\u0301", "café"),
        ("ﬁle", "file"),
        ("ｒefund", "refund"),
        ("e\u2013mail", "e-mail"),
        ("e\u2011mail", "e-mail"),
        ("don\u2019t", "don't"),
        ("\u201cother\u201d", '"other"'),
        ('"refund"', "refund"),
        ("'refund'", "refund"),
        ("\u0130ade", "iade"),
    ],
)
def test_labels_that_differ_in_spelling_alone_look_alike(one, other):
    (found,) = spelling_variants([one, other, "billing"])
    assert (set(found.labels), found.is_value) == ({one, other}, False)
    assert same_spelling(one, ["billing", other]) == other
    assert shown(one) != shown(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "1e0"), ("0", "-0.0"), ("1", "01"), ("1", "１"), ("-1", "\u22121"), ("True", "true")],
)
def test_spellings_of_one_number_or_boolean_are_told_from_others(one, other):
    (found,) = spelling_variants([one, other])
    assert (set(found.labels), found.is_value) == ({one, other}, True)


@pytest.mark.parametrize(
    "labels",
    [("-1", "0", "1"), ("c", "c++", "c#"), ("1 0", "10"), ("billing", "shipping"), ("a", "ä"), ("1e999999", "2")],
)
def test_other_labels_do_not_look_alike(labels):
    assert spelling_variants(labels) == []
    assert same_spelling("z", labels) is None


def test_three_spellings_are_one_group():
    (found,) = spelling_variants(["refund", "Refund", "REFUND ", "other"])
    assert len(found.labels) == 3


def test_what_cannot_be_seen_is_shown_as_its_code():
    assert shown("a\u200bb\xa0c\u2013d") == r"'a\u200bb\xa0c\u2013d'"
    assert shown("हिन्दी, café: ok") == "'हिन्दी, café: ok'"
    assert (plain("card arrival"), plain("card  arrival")) == ("card arrival", "'card  arrival'")
    assert plain("a\u200bb") == r"'a\u200bb'"
