"""The page and /docs in a real browser: Chromium from Debian."""

import asyncio
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 30.0
KEY = "reflux_a-key-of-a-person"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="there is no Chromium with its driver (Debian: chromium-driver)"
)


class Browser:
    """A browser window. Every action waits until its element is shown."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url):
        self.driver.get(url)

    def find(self, selector):
        """Return the first element that is shown."""

        def shown():
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return next((one for one in found if one.is_displayed()), None)

        return self.until(shown)

    def click(self, selector):
        self.find(selector).click()

    def write(self, selector, text):
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def reads(self, selector, *parts):
        """Wait until an element shows all `parts`."""
        self.until(lambda: all(part in self.find(selector).text for part in parts))

    def hides(self, selector):
        self.until(lambda: not self.driver.find_element(By.CSS_SELECTOR, selector).is_displayed())

    def until(self, condition):
        drawn_anew = (StaleElementReferenceException,)
        return WebDriverWait(self.driver, PATIENCE, ignored_exceptions=drawn_anew).until(lambda _: condition())

    def errors(self):
        """Return the errors that the browser logged, such as blocked assets."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1100,1400"):
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver)
    driver.quit()


async def test_the_page_classifies_a_text_and_shows_the_model_and_the_gap(browser, listening, tiny_bundle):
    def use(url):
        browser.open(url)
        browser.reads("#model", tiny_bundle.manifest.family, *tiny_bundle.manifest.labels)
        browser.reads("#gap", "At validation")
        browser.write("#text", "where is my refund")
        browser.click("#form button")
        browser.reads("#answer", "billing", "tokens")
        assert browser.errors() == []

    async with listening() as serving:
        await asyncio.to_thread(use, serving.url)


async def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(browser, listening, write_keys):
    def use(url):
        browser.open(url)
        browser.write("#key", "another")
        browser.click("#entry button")
        browser.reads("#gap", "key")
        browser.write("#key", KEY)
        browser.click("#entry button")
        browser.hides("#entry")
        browser.reads("#gap", "At validation")
        browser.driver.refresh()
        browser.reads("#gap", "At validation")
        browser.hides("#entry")
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
