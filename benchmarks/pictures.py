"""Take the pictures of the README: the console of a running service, and the report of a run.

    reflux demo --serve            # prints the service's address; its report is runs/demo/report
    python benchmarks/pictures.py ADDRESS runs/demo/report [--output docs/images]

Chromium and its driver are needed (Debian: `apt-get install chromium-driver`). Writes console.png and report.png, both
1280 pixels wide and reduced to 256 colours.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

TEXT = "I was charged twice for one order and want the second payment back"
WIDTH = 1280
REPORT_HEIGHT = 845  # CSS pixels: the summary and both figures
PATIENCE_SECONDS = 30.0
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 1.5rem auto; }
table { border-collapse: collapse; } th, td { border: 1px solid #ccc; padding: .2rem .7rem; text-align: left; }
img { width: 49%; vertical-align: top; } p:has(img) { display: inline; }
"""


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of a running service, such as http://127.0.0.1:8080")
    parser.add_argument("report", type=Path, help="the folder of a run's report")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        console(driver, given.address)
        save(driver, given.output / "console.png", width=850)
        report(driver, given.report)
        save(driver, given.output / "report.png", width=920, height=REPORT_HEIGHT)


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


def console(driver: webdriver.Chrome, address: str) -> None:
    """Open the console of the service, classify TEXT, and wait until the answer and the live gap are shown."""
    driver.get(address)
    driver.find_element(By.ID, "text").send_keys(TEXT)
    driver.find_element(By.CSS_SELECTOR, "#form button").click()
    for table in ("#answer table", "#gap table", "#model table"):
        WebDriverWait(driver, PATIENCE_SECONDS).until(
            lambda _, table=table: driver.find_elements(By.CSS_SELECTOR, table)
        )


def report(driver: webdriver.Chrome, folder: Path) -> None:
    """Open `report.md` of the folder as a page."""
    body = MarkdownIt().enable("table").render((folder / "report.md").read_text(encoding="utf-8"))
    base = f'<base href="{folder.resolve().as_uri()}/">'
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as page:
        page.write(f"<!doctype html><meta charset=utf-8>{base}<style>{STYLE}</style>{body}")
        page.flush()
        driver.get(Path(page.name).as_uri())


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
