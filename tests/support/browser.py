"""A real browser: Chromium, from Debian. The fixture `browser` gives each test a tab of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 30.0


class Browser:
    """A tab. Every action waits until its element is shown."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def resize(self, width: int, scheme: str = "light") -> None:
        """Show pages `width` CSS pixels wide, in a colour scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def find(self, selector: str) -> Any:
        """Return the first element that is shown."""

        def shown() -> Any:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return next((one for one in found if one.is_displayed()), None)

        return self.until(shown)

    def click(self, selector: str) -> None:
        """Click an element, again if the page draws it anew before the click reaches it."""

        def clicked() -> bool:
            self.find(selector).click()
            return True

        self.until(clicked)

    def write(self, selector: str, text: str) -> None:
        """Replace the text of a field, from the start if the page draws it anew."""

        def written() -> bool:
            field = self.find(selector)
            field.clear()
            field.send_keys(text)
            return True

        self.until(written)

    def reads(self, selector: str, *parts: str) -> None:
        """Wait until an element shows all `parts`."""
        self.until(lambda: all(part in self.find(selector).text for part in parts))

    def hides(self, selector: str) -> None:
        """Wait until an element is not shown."""
        self.until(lambda: not self.driver.find_element(By.CSS_SELECTOR, selector).is_displayed())

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for what is true, and return it."""
        drawn_anew = (StaleElementReferenceException,)
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=drawn_anew).until(
            lambda _: condition()
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        """Return the errors that the browser logged since they were last asked for, such as blocked assets."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """Start headless Chromium with its profile in a folder, and yield its driver; skip the test where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its driver (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1100,1400"):
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={folder}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def new_tab(driver: Any) -> Browser:
    """Open a tab and close the others."""
    before = driver.window_handles
    driver.switch_to.new_window("tab")
    tab = driver.current_window_handle
    for handle in before:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(tab)
    driver.get_log("browser")
    return Browser(driver)
