"""The whole page with many labels, in a real browser: nothing overflows or is lost, in light and in dark."""

import pytest

from distill.evaluation.report.html import render
from distill.evaluation.report.write import sections, title
from tests.support.gap_report import gap_report

LABELS = tuple(f"label_with_a_name_of_some_length_{at}" for at in range(77))
EVIL = "<script>document.title = 'run'</script> $ & "

CONTRASTS = """
const rgb = text => text.match(/[\\d.]+/g).map(Number), part = value => {
  value /= 255; return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const page = light(rgb(getComputedStyle(document.querySelector('section')).backgroundColor));
return arguments[0].map(selector => {
  const style = getComputedStyle(document.querySelector(selector));
  const ink = light(rgb(selector.includes('svg') ? style.fill : style.color));
  return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05); });
"""
TEXTS = [".verdict", ".note", "td", "thead th", "dt", "dd small", "li small", "a", "svg text"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page about 77 labels, whose texts are markup."""
    gap = gap_report(LABELS, rows=400, text=EVIL)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(title(gap), sections(gap)))
    return file.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_and_can_be_read(browser, page, width, scheme):
    browser.resize(width, scheme)
    browser.open(page)
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width
    for selector, contrast in zip(TEXTS, browser.run(CONTRASTS, TEXTS), strict=True):
        assert contrast >= 4.5, selector
    colours = "return ['body', 'section'].map(one => getComputedStyle(document.querySelector(one)).backgroundColor)"
    expected = {"light": ["rgb(246, 247, 249)", "rgb(255, 255, 255)"], "dark": ["rgb(16, 19, 23)", "rgb(25, 29, 35)"]}
    assert browser.run(colours) == expected[scheme]
    assert browser.errors() == []


@pytest.mark.parametrize("width", [320, 440, 900])
def test_small_prices_stay_in_their_cards_on_one_line(browser, tmp_path, width):
    gap = gap_report(LABELS[:3], rows=40)
    for student in gap["students"].values():
        student["usd_per_1000"] = 0.00000128
    (tmp_path / "report.html").write_text(render(title(gap), sections(gap)))
    browser.resize(width)
    browser.open((tmp_path / "report.html").as_uri())
    cards = browser.run(
        "return [...document.querySelectorAll('.facts dd')].map(card => { const text = document.createRange();"
        "text.selectNodeContents(card.firstChild); const shown = text.getClientRects();"
        "return [card.innerText, shown.length, shown[0].right <= card.getBoundingClientRect().right + 0.5]; })"
    )
    assert any(text.startswith("$0.00000128") for text, _, _ in cards)
    assert [(lines, fits) for _, lines, fits in cards] == [(1, True)] * len(cards)


@pytest.mark.parametrize("width", [400, 1600])
def test_the_matrix_has_every_label_twice_at_a_legible_size(browser, page, width):
    browser.resize(width)
    browser.open(page)
    shown = browser.run(
        "return [...document.querySelectorAll('figure.large svg text')].map(one => one.textContent.trim())"
    )
    for label in LABELS:
        assert shown.count(label) == 2
    scale = browser.run(
        "const svg = document.querySelector('figure.large svg');"
        "return svg.getBoundingClientRect().width / svg.viewBox.baseVal.width"
    )
    assert 7.5 * scale >= 7.5  # pixels; in points as drawn


def test_the_texts_of_disagreements_are_shown_and_do_not_run(browser, page):
    browser.open(page)
    shown = browser.run("return document.querySelector('ol').innerText")
    assert shown.count("<script>document.title = 'run'</script> $ & text ") == len(shown.split("teacher: ")) - 1 > 0
    assert browser.driver.title == "Distillation gap: desk"


def test_every_link_leads_to_a_section(browser, page):
    browser.open(page)
    lost = browser.run(
        "return [...document.querySelectorAll('a')].filter(one => !document.getElementById(one.hash.slice(1))).length"
    )
    assert lost == 0
    assert browser.run("return document.querySelectorAll('a:not([href^=\"#\"])').length") == 0
