"""The page in every state that a person on call may meet, over bodies that a test sets, in a real browser."""

import asyncio

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.console_stub import ConsoleStub, refusal
from tests.support.gap_bodies import CANDIDATE, STATES, gap_body, history_body
from tests.support.http_server import serving

ROOT = "document.documentElement"
WINDOWS = ("1h", "6h", "1d", "7d", "since")


async def look(stub, use):
    """Serve a stub, and use it in a thread."""
    async with serving(stub) as server:
        await asyncio.to_thread(use, server.url)


def choose(browser, name):
    browser.click(f"#windows button:nth-child({WINDOWS.index(name) + 1})")


def drawn(browser):
    """Wait until everything was drawn once."""
    browser.find("#model dl")


async def test_every_state_shows_its_verdict_as_word_icon_and_sentence(browser):
    icons = {}

    def use(url):
        for state in STATES:
            stub.state = state
            body = gap_body(state)
            browser.open(url)
            browser.reads("#word", body["verdict"].upper())
            browser.reads("#sentence", body["message"])
            browser.reads("#facts", "10.5 %", "never" if state in ("nothing", "off") else "ago")
            for reason in body["blind"][1:]:
                browser.reads("#reasons", reason)
            drawn(browser)
            assert browser.driver.title == f"{body['verdict']} · Reflux"
            icons.setdefault(body["verdict"], set()).add(browser.find("#icon").get_attribute("d"))
            assert browser.errors() == []

    stub = ConsoleStub()
    await look(stub, use)
    assert all(len(drawings) == 1 for drawings in icons.values())
    assert len(set.union(*icons.values())) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_state_fits_a_narrow_and_a_wide_screen_and_can_be_read(browser, scheme):
    def use(url):
        for state in STATES:
            stub.state = state
            browser.resize(1600, scheme)
            browser.open(url)
            drawn(browser)
            for width in (1600, 400):
                browser.resize(width, scheme)
                browser.until(lambda width=width: browser.run("return innerWidth") == width)
                browser.until(lambda: browser.run(f"return {ROOT}.scrollWidth == {ROOT}.clientWidth"))
            for contrast in browser.run(CONTRASTS, ["#word strong", "#sentence", "#facts dt", "#measured", ".quiet"]):
                assert contrast >= 4.5, (state, scheme)

    stub = ConsoleStub()
    await look(stub, use)


async def test_nothing_that_was_classified_becomes_markup(browser):
    def use(url):
        browser.open(url)
        browser.reads("#disagreements", "<b>bold</b> <script>document.title = 'owned'</script>", "not kept")
        assert browser.run("return document.querySelectorAll('#disagreements :is(b, script)').length") == 0
        assert browser.driver.title == "stay · Reflux"

    await look(ConsoleStub(), use)


async def test_every_window_can_be_chosen_and_stands_in_the_address(browser):
    def use(url):
        browser.open(f"{url}/?window=7d")
        for name, words in (("7d", "last 7 days"), ("1h", "last hour"), ("since", "since deployment")):
            choose(browser, name)
            browser.reads("#facts", words)
            points = len(history_body("calm", name)["points"])
            browser.until(
                lambda points=points: len(browser.driver.find_elements(By.CSS_SELECTOR, "#points tbody tr")) == points
            )
            assert f"window={name}" in browser.driver.current_url
        browser.driver.refresh()
        browser.reads("#facts", "since deployment")

    stub = ConsoleStub()
    await look(stub, use)
    assert {f"/gap/history?window={name}&variant=stable" for name in ("7d", "1h", "since")} <= set(stub.asked)


async def test_the_chart_says_in_words_and_in_a_table_what_it_shows(browser):
    def use(url):
        browser.open(f"{url}/?window=7d")
        drawn(browser)
        browser.find("#chart canvas")
        label = browser.find("#chart").get_attribute("aria-label")
        assert "168 points" in label
        assert "SLO 10.5" in label
        browser.click("#points-open")
        browser.reads("#points", "Requests", "Compared", f"{100 * history_body('leave')['points'][-1]['ratio']:.1f} %")

    await look(ConsoleStub("leave"), use)


async def test_the_scale_ends_at_twice_the_slo_or_where_the_interval_does(browser):
    script = """
        const done = arguments[2], { src } = document.querySelector("script[type=module]");
        import(src.replace("main.js", "chart.js")).then(({ scaleEnd }) => done(scaleEnd(arguments[0], arguments[1])));
    """

    def use(url):
        browser.open(url)
        end = browser.driver.execute_async_script
        assert end(script, [{"upper": 0.03, "expected": 0.02}], 0.1) == 0.2
        assert end(script, [{"upper": 0.31, "expected": 0.02}, {"upper": None, "expected": 0.4}], 0.1) == 0.4
        assert end(script, [{"upper": 0.0, "expected": None}], None) > 0

    await look(ConsoleStub(), use)


async def test_a_failure_is_said_and_the_last_numbers_are_marked_as_old(browser):
    def use(url):
        browser.open(url)
        drawn(browser)
        stub.failing["/gap"] = refusal(500, "the graph failed")
        choose(browser, "6h")
        browser.reads("#notice", "fails (500): the graph failed", "is old")
        browser.reads("#word", "STAY", "what holds now is not known")
        assert browser.driver.title == "No answer · Reflux"
        assert browser.run("return document.querySelectorAll('#verdict.old, #numbers.old').length") == 2
        stub.failing.clear()
        choose(browser, "1d")
        browser.hides("#notice")
        browser.reads("#word", "STAY", "the student may stay")
        stub.failing["/gap/disagreements"] = refusal(503, "stopping")
        choose(browser, "1h")
        browser.reads("#notice", "503", "stopping")

    stub = ConsoleStub()
    await look(stub, use)


async def test_a_service_that_is_gone_is_said(browser):
    def before(url):
        browser.open(url)
        drawn(browser)

    def after():
        choose(browser, "6h")
        browser.reads("#notice", "does not answer", "is old")

    async with serving(ConsoleStub()) as server:
        await asyncio.to_thread(before, server.url)
    await asyncio.to_thread(after)


async def test_without_any_answer_there_is_no_verdict_and_no_number(browser):
    def use(url):
        browser.open(url)
        browser.reads("#word", "No verdict")
        browser.reads("#notice", "The service fails (503)")
        browser.hides("#numbers")

    stub = ConsoleStub()
    stub.failing["/gap"] = refusal(503, "not loaded")
    await look(stub, use)


async def test_the_candidate_has_a_verdict_of_its_own_beside_the_stable_one(browser):
    def use(url):
        browser.open(url)
        browser.reads("#variants", "stable: stay", "candidate: leave")
        browser.reads("#word", "STAY")
        browser.click("#variants button:nth-child(2)")
        browser.reads("#word", "LEAVE")
        browser.reads("#facts", f"candidate {CANDIDATE}")
        browser.reads("#model", "answers 10 % of the requests", "stay, gap 5.8 %")
        assert "variant=candidate" in browser.driver.current_url
        stub.candidate = None  # it took over, say
        choose(browser, "6h")
        browser.reads("#word", "STAY")
        browser.until(lambda: "variant=stable" in browser.driver.current_url)
        browser.hides("#variants")

    stub = ConsoleStub(candidate="leave")
    await look(stub, use)


async def test_the_teachers_answer_stands_beside_the_students_on_request(browser):
    def use(url):
        browser.open(url)
        drawn(browser)
        browser.write("#text", "where is the refund of a@b.example")
        browser.click("#form button")
        browser.reads("#answer", "The student says", "refund", "91.2 %", "14 tokens")
        assert "teacher" not in browser.find("#answer").text
        browser.reads("#form", "about 0.0009 USD")
        browser.click("#ask")
        browser.reads(
            "#answer", "The student says", "The teacher says", "81.0 %", "redacted: where is the refund of <EMAIL>"
        )
        stub.failing["/gap/ask"] = refusal(429, "at most 6 texts a minute")
        browser.click("#ask")
        browser.reads("#answer", "The student says", "at most 6 texts a minute")
        stub.state = "off"
        choose(browser, "6h")
        browser.hides("#ask")

    stub = ConsoleStub()
    await look(stub, use)


async def test_only_what_the_process_does_is_offered(browser):
    def use(url):
        for classifies, asks in ((False, True), (True, False), (True, True)):
            stub.process = {"classifies": classifies, "asks": asks}
            browser.open(url)
            drawn(browser)
            form, teacher = (browser.driver.find_element(By.CSS_SELECTOR, name) for name in ("#form", "#ask"))
            assert (form.is_displayed(), teacher.is_displayed()) == (classifies, classifies and asks)

    stub = ConsoleStub()
    await look(stub, use)


async def test_texts_of_a_version_that_nobody_asks_about_are_named(browser):
    def use(url):
        browser.open(url)
        browser.reads("#losses", "Waiting for 01d01d", "1,234, and no process asks about that version")

    stub = ConsoleStub()
    stub.changed = {"queue": gap_body("calm")["queue"] | {"abandoned": {"01d01d": 1234}}}
    await look(stub, use)


async def test_the_keyboard_reaches_everything_and_the_focus_is_seen(browser):
    def focused():
        return browser.driver.switch_to.active_element

    def use(url):
        browser.open(url)
        drawn(browser)
        focused().send_keys(Keys.TAB)
        assert focused().text == "Skip to the verdict"
        assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
        focused().send_keys(Keys.ENTER)
        assert focused().get_attribute("id") == "verdict"
        order = []
        for _ in range(30):
            focused().send_keys(Keys.TAB)
            order.append(focused().get_attribute("id") or focused().text)
            if order[-1] == "Classify":
                break
        assert order[:5] == list(WINDOWS)
        assert order[-2:] == ["text", "Classify"]
        assert {"points-open", "each-window", "bands", "disagreements"} <= set(order)
        button = browser.find("#windows button")
        button.send_keys(Keys.ENTER)
        browser.reads("#facts", "last hour")
        assert focused().text == "1h"

    await look(ConsoleStub(), use)


async def test_a_screen_reader_finds_landmarks_headings_and_named_tables(browser):
    def use(url):
        browser.open(url)
        drawn(browser)
        nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        named = {}
        for node in nodes:
            named.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
        assert len(named["main"]) == len(named["banner"]) == 1
        for role in ("heading", "table", "region", "image", "button", "textbox"):
            assert all(named[role]), role
        assert len(named["table"]) >= 6
        assert browser.run("return document.querySelectorAll('[aria-live], [role=status], [role=alert]').length") == 1
        assert browser.find("[aria-live] #word")

    await look(ConsoleStub("watch"), use)


async def test_the_verdict_is_spoken_again_only_when_it_changes(browser):
    watch = """
        window.spoken = 0;
        new MutationObserver(() => window.spoken++).observe(document.querySelector("[aria-live]"),
          { childList: true, subtree: true, characterData: true, attributes: true });
    """

    def use(url):
        browser.open(url)
        drawn(browser)
        browser.run(watch)
        stub.changed = {"message": "886 comparisons and another sentence", "last_comparison_age_seconds": 3.0}
        choose(browser, "6h")
        browser.reads("#sentence", "another sentence")
        assert browser.run("return window.spoken") == 0
        stub.state = "leave"
        choose(browser, "1d")
        browser.reads("#word", "LEAVE")
        assert browser.run("return window.spoken") > 0

    stub = ConsoleStub()
    await look(stub, use)


CONTRASTS = """
const pixel = colours => {
  const context = document.createElement("canvas").getContext("2d");
  for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = rgb => rgb.map(value => value / 255)
  .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
return arguments[0].map(selector => {
  const element = document.querySelector(selector), behind = [];
  for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const [dark, light] = [pixel(behind), pixel([...behind, getComputedStyle(element).color])].map(luminance)
    .sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
});
"""
"""The contrast of the text of each selector with what is behind it (WCAG 2, section 1.4.3: at least 4.5)."""


async def test_a_cascade_shows_which_share_of_the_texts_each_stage_answered(browser):
    def use(url):
        browser.open(url)
        browser.reads("#model", "Stage 0-static", "no text yet", "from a score of 0.830", "Stage 1-encoder")
        stub.model["answers_by_stage"] = {"0-static": 800, "1-encoder": 200}
        choose(browser, "6h")
        browser.reads("#model", "80.0 % of 1,000 texts", "20.0 % of 1,000 texts", "what reaches it")

    stub = ConsoleStub()
    stages = [("stages/0-static", 0.83), ("stages/1-encoder", None)]
    stub.model = {
        "family": "cascade",
        "variant": "cascade",
        "stages": [{"folder": folder, "version": "1", "cut_off": cut_off} for folder, cut_off in stages],
        "answers_by_stage": {"0-static": 0, "1-encoder": 0},
    }
    await look(stub, use)


async def test_a_cascade_that_defers_shows_what_the_teacher_answers_and_what_is_guaranteed(browser):
    def use(url):
        browser.open(url)
        browser.reads("#model", "Stage 0-encoder", "92.0 % of 1,000 texts", "from a score of 0.620")
        browser.reads("#model", "Stage teacher", "8.0 % of 1,000 texts", "Guaranteed", "at least 99 % of all requests")
        browser.reads("#losses", "Answered by the teacher itself", "8.0 % of all", "2.5 % (2.0 to 3.0 %)")

    stub = ConsoleStub()
    stub.model = {
        "family": "cascade",
        "variant": "cascade",
        "stages": [{"folder": "stages/0-encoder", "version": "1", "cut_off": 0.62}],
        "answers_by_stage": {"0-encoder": 920, "teacher": 80},
        "measured": {"guarantee": "With 95 % confidence, it agrees with the teacher on at least 99 % of all requests."},
    }
    stub.changed["deferred"] = {"answered": 80, "share": 0.08, "gap": {"ratio": 0.025, "lower": 0.02, "upper": 0.03}}
    await look(stub, use)
