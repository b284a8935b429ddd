"""The page needs no other file, runs nothing that is in a text, and shows its figures in the colours of the page."""

import re

from distill.evaluation.report.document import Bullets, Fact, Facts, Figure, Figures, Paragraph, Section, Table
from distill.evaluation.report.html import render

EVIL = "<script>document.title = 'run'</script>"


def page(*blocks):
    return render(f"Title {EVIL}", [Section("First", []), Section(f"Second {EVIL}", blocks)])


def test_all_text_is_shown_and_none_of_it_runs(browser, tmp_path):
    figure = Figure("evil", f"alt {EVIL}", lambda axes: axes.set(xlabel=f"$1 & {EVIL}", xticks=[0], xticklabels=[EVIL]))
    blocks = [
        Paragraph(f"paragraph {EVIL}", "warning"),
        Bullets([f"bullet {EVIL}"]),
        Facts([Fact(f"fact {EVIL}", f"value {EVIL}", f"note {EVIL}")]),
        Table([f"header {EVIL}"], [[f"cell {EVIL}"]]),
        Figures([figure]),
    ]
    (tmp_path / "page.html").write_text(page(*blocks))
    browser.open((tmp_path / "page.html").as_uri())
    shown = browser.run("return document.body.innerText")
    for word in ("Title", "Second", "paragraph", "bullet", "fact", "value", "note", "header", "cell"):
        assert f"{word} {EVIL}" in shown
    assert f"$1 & {EVIL}" in browser.run("return document.querySelector('svg').textContent")
    assert browser.run("return document.querySelectorAll('script').length") == 0
    assert browser.driver.title == f"Title {EVIL}"
    assert browser.errors() == []


def test_the_page_forbids_scripts_and_requests(browser, tmp_path):
    address = (tmp_path / "page.html").as_uri()
    (tmp_path / "page.html").write_text(page().replace("</body>", f"{EVIL}<img src='other.png'></body>"))
    browser.open(address)
    assert browser.driver.title == f"Title {EVIL}"
    assert len(browser.errors()) == 2  # one for the script, one for the picture


def test_figures_have_the_colours_of_the_page_and_ids_of_their_own():
    def plot(axes):
        axes.plot([0, 1], [0, 1], marker="o")
        axes.set(xlabel="label")

    one, two = (page(Figures([Figure(name, "alt", plot)])).split("<svg")[1].split("</svg>")[0] for name in "ab")
    assert "var(--ink)" in one
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
