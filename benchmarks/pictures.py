"""Take the pictures of the README: the console after a calm day and after foreign texts, and the report of a run.

    reflux demo                               # makes runs/demo
    python benchmarks/pictures.py runs/demo [--output docs/images]

Chromium and its driver are needed (Debian: `apt-get install chromium-driver`). The days are those of `day.py`, so what
the pictures show was measured. Writes console.png, console-leave.png, report.png and
report-confusion.png, each WIDTH pixels wide and reduced to 256 colours.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from day import day
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

WIDTH = 1280
CONSOLE_HEIGHT = 1130  # CSS pixels: the verdict, the gap over time, and the causes
FOREIGN = 0.8
REPORT_WIDTH, REPORT_HEIGHT = 1040, 1200  # CSS pixels: the verdict and the table
FIGURE_WIDTH = 700
FIGURE_ALONE = "document.body.replaceChildren(document.querySelector('figure.large'))"
PATIENCE_SECONDS = 30.0


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the demo's run")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        for name, foreign in (("console", 0.0), ("console-leave", FOREIGN)):
            asyncio.run(console(driver, given.run, foreign, given.output / f"{name}.png"))
        driver.get((given.run / "report" / "report.html").resolve().as_uri())
        save(driver, given.output / "report.png", width=REPORT_WIDTH, height=REPORT_HEIGHT)
        driver.execute_script(FIGURE_ALONE)
        save(driver, given.output / "report-confusion.png", width=FIGURE_WIDTH)


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Start headless Chromium, and quit it at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{option}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


async def console(driver: webdriver.Chrome, run: Path, foreign: float, path: Path) -> None:
    """Take the top of the console after a day whose last hours have a share of `foreign` texts."""

    def take(url: str) -> None:
        driver.get(f"{url}/?window=1d")
        for drawn in ("#chart canvas", "#model dl"):
            WebDriverWait(driver, PATIENCE_SECONDS).until(
                lambda _, drawn=drawn: driver.find_elements(By.CSS_SELECTOR, drawn)
            )
        save(driver, path, width=WIDTH, height=CONSOLE_HEIGHT)

    async with day(run / "bundle", run / "bundles" / "teacher", foreign) as url:
        await asyncio.to_thread(take, url)


def save(driver: webdriver.Chrome, path: Path, *, width: int, height: int | None = None) -> None:
    """Write a PNG of the page, `width` by `height` CSS pixels (default: the whole height), scaled to WIDTH pixels."""
    metrics = {"width": width, "height": height or 1, "deviceScaleFactor": WIDTH / width, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    if height is None:
        metrics["height"] = driver.execute_script("return document.documentElement.scrollHeight")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
