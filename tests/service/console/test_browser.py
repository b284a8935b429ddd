"""The page and /docs of a real service in a real browser."""

import asyncio

import pytest

KEY = "reflux_a-key-of-a-person"


@pytest.fixture
def shadow(tiny_teacher, tmp_path):
    """Settings of shadowing of every text, by a teacher that takes `refund` for shipping."""
    teacher = {"kind": "bundle", "path": str(tiny_teacher.path), "usd_per_hour": 1.0}
    return {"enabled": True, "teacher": teacher, "path": tmp_path / "shadow.sqlite", "rate": 1.0}


async def test_the_page_shows_the_verdict_the_comparisons_and_both_answers(browser, listening, tiny_bundle, shadow):
    def use(url):
        browser.open(url)
        browser.reads("#word", "WATCH", "not certified yet")
        browser.reads("#facts", "never")
        browser.reads("#model", tiny_bundle.manifest.family, tiny_bundle.manifest.version)
        for _ in range(3):
            browser.write("#text", "where is my refund")
            browser.click("#ask")
            browser.reads("#answer", "The student says", "billing", "The teacher says", "shipping")
        browser.until(lambda: browser.click("#windows button") or "Disagreements\n3" in browser.find("#losses").text)
        browser.click("#windows button:last-child")
        browser.reads("#facts", "since deployment", "ago")
        browser.reads("#disagreements", "where is my refund", "shipping", "billing")
        browser.reads("#harm", "shipping", "billing")
        browser.find("#chart canvas")
        assert browser.errors() == []

    async with listening(shadow=shadow) as serving:
        await asyncio.to_thread(use, serving.url)


async def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(browser, listening, write_keys):
    def use(url):
        browser.open(url)
        browser.reads("#notice", "needs an API key")
        browser.reads("#word", "No verdict")
        browser.write("#key", "another")
        browser.click("#entry button")
        browser.reads("#notice", "refuses this key", "not known")
        browser.write("#key", KEY)
        browser.click("#entry button")
        browser.hides("#entry")
        browser.reads("#word", "BLIND")
        browser.driver.refresh()
        browser.reads("#word", "BLIND")
        browser.hides("#entry")
        browser.hides("#ask")
        browser.write("#text", "refund")
        browser.click("#form button")
        browser.reads("#answer", "billing")

    async with listening(api_keys=write_keys(person=KEY)) as serving:
        await asyncio.to_thread(use, serving.url)


async def test_docs_sends_its_example_and_shows_the_answer(browser, listening, tiny_bundle):
    def use(url):
        browser.open(f"{url}/docs")
        browser.click("[id$=classify_post] .opblock-summary-control")
        browser.click(".try-out__btn")
        browser.click(".execute")
        browser.reads(".live-responses-table tbody .response-col_status", "200")
        browser.reads(".live-responses-table .microlight", tiny_bundle.manifest.version)
        assert browser.errors() == []

    async with listening() as serving:
        await asyncio.to_thread(use, serving.url)
