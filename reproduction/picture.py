"""Pictures of what a reader tries: the README's, and those that stand in the pages where scripts are off."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compatkit.files import write_atomically

from .show import programs

__all__ = ["bare_pages", "stills", "take"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)

METHODS = ("independent", "IIW+DCC")
_SCREEN = {"width": 1440, "height": 1200, "deviceScaleFactor": 1.2, "mobile": False}
_GAP = 10


@contextmanager
def chromium(**capabilities: Any) -> Iterator[Any]:
    """A driver of Chromium, without a window, with a profile of its own that is removed in the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        for name, value in capabilities.items():
            options.set_capability(name, value)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def take(page: Path, picture: Path) -> None:
    """Open the landing page and write what a reader sees there, with one method above the other.

    Without Chromium and its driver the picture is left as it was, and a line says so.
    """
    from PIL import Image

    if not (CHROMIUM and DRIVER):
        print(f"{picture.name} is left as it was: Chromium and chromedriver are needed to take it", flush=True)
        return
    with chromium() as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _SCREEN)
        driver.get(page.as_uri())
        parts = [Image.open(io.BytesIO(shot(driver, method))).convert("RGB") for method in METHODS]
    heights = [part.height + _GAP for part in parts]
    whole = Image.new("RGB", (parts[0].width, sum(heights) - _GAP), "white")
    for i, part in enumerate(parts):
        whole.paste(part, (0, sum(heights[:i])))
    png = io.BytesIO()
    whole.quantize(64).save(png, "PNG", optimize=True)
    write_atomically(picture, png.getvalue())


def shot(driver: Any, method: str) -> bytes:
    """The frame to draw in, as PNG, without its text, once the networks of a method have answered."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, 30)
    frame = driver.find_element(By.CLASS_NAME, "compatkit-draw")
    chosen = wait.until(lambda _: frame.find_elements(By.CSS_SELECTOR, f'input[value="{method}"]'))
    driver.execute_script("arguments[0].click()", chosen[0])
    wait.until(lambda _: frame.get_attribute("aria-busy") != "true")
    hide = "for (const text of arguments[0].querySelectorAll('.words, .measured')) text.hidden = true"
    driver.execute_script(hide, frame)
    return frame.screenshot_as_png


def bare_pages(folder: Path) -> dict[str, Path]:
    """A page for each program, by its name, with nothing else in it, in ``folder`` with all that they load."""
    shutil.copytree(programs.EXPORTED, folder / "exported")
    for path in (*programs.SITE.glob("*.*"), *programs.EXPORTED.parent.glob("*.webp")):
        shutil.copy2(path, folder)
    for name, scripts in programs.SCRIPTS.items():
        element = programs.program(name)._repr_mimebundle_()[0]["text/html"]
        loaded = "".join(f'<script defer src="{script}"></script>' for script in scripts)
        look = f'<link rel="stylesheet" href="{programs.STYLE}"><style>* {{box-sizing: border-box}}</style>'
        meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        start = f'<!doctype html><html data-theme="light">{meta}{look}'
        (folder / f"{name}.html").write_text(start + element + loaded, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in programs.SCRIPTS}


def stills(folder: Path) -> None:
    """Write NAME.webp of each program into ``folder``, as it is after a press of its button; without Chromium they stay
    as they are."""
    from PIL import Image

    if not (CHROMIUM and DRIVER):
        return
    with tempfile.TemporaryDirectory() as place, chromium() as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _STILL)
        for name, page in bare_pages(Path(place)).items():
            driver.get(page.as_uri())
            webp = io.BytesIO()
            seen = Image.open(io.BytesIO(_used(driver, name))).convert("RGB")
            seen.resize((seen.width * 2 // 3, seen.height * 2 // 3)).save(webp, "WEBP", quality=50)
            write_atomically(folder / f"{name}.webp", webp.getvalue())


_STILL = {"width": 760, "height": 1200, "deviceScaleFactor": 1, "mobile": False}


def _used(driver: Any, name: str) -> bytes:
    """A program as PNG, once its button was pressed and nothing changes any more."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(driver, 120, poll_frequency=0.5)
    frame = driver.find_element(By.CLASS_NAME, "compatkit-program")
    wait.until(lambda _: frame.find_elements(By.CLASS_NAME, "words"))
    for button in frame.find_elements(By.CLASS_NAME, "play"):
        button.click()
    if name == "train":
        wait.until(lambda _: "as trained" in frame.find_element(By.CLASS_NAME, "words").text)
    seen = [b"", b"other"]
    while seen[-1] != seen[-2]:
        time.sleep(1.5)
        seen.append(frame.screenshot_as_png)
    return seen[-1]
