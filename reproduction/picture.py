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

__all__ = ["bare_pages", "take"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)

METHODS = ("independent", "IIW+DCC")
"""Whose answers stand in the README's picture, one above the other."""


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


def take(folder: Path) -> None:
    """Write NAME.webp of each program, as it is after a press of its button, and the README's hero.png into ``folder``.

    Without Chromium and its driver all are left as they were, and a line says so.
    """
    from PIL import Image

    if not (CHROMIUM and DRIVER):
        print("pictures are left as they were: Chromium and chromedriver are needed to take them", flush=True)
        return
    with tempfile.TemporaryDirectory() as place, chromium() as driver:
        pages = bare_pages(Path(place))
        for name, page in pages.items():
            seen = used(driver, page, width=760)
            _write(folder / f"{name}.webp", seen.resize((seen.width * 2 // 3, seen.height * 2 // 3)), quality=50)
        parts = [used(driver, pages["draw"], width=1000, method=method) for method in METHODS]
    height = parts[0].height + 10
    whole = Image.new("RGB", (parts[0].width, height * len(parts) - 10), "white")
    for i, part in enumerate(parts):
        whole.paste(part, (0, i * height))
    _write(folder / "hero.png", whole.quantize(64), optimize=True)


def _write(path: Path, picture: Any, **options: Any) -> None:
    file = io.BytesIO()
    picture.save(file, path.suffix[1:], **options)
    write_atomically(path, file.getvalue())


def used(driver: Any, page: Path, width: int, method: str = "") -> Any:
    """A program as an image, once its button was pressed, or a method picked, and nothing changes any more.

    With a method the text below is left out.
    """
    from PIL import Image
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    screen = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(page.as_uri())
    wait = WebDriverWait(driver, 120, poll_frequency=0.5)
    frame = driver.find_element(By.CLASS_NAME, "compatkit-program")
    wait.until(lambda _: frame.find_elements(By.CLASS_NAME, "words"))
    for pressed in frame.find_elements(By.CSS_SELECTOR, f'[value="{method}"]' if method else ".play"):
        driver.execute_script("arguments[0].click()", pressed)
    if page.stem == "train":
        wait.until(lambda _: "as trained" in frame.find_element(By.CLASS_NAME, "words").text)
    seen = [b"", b"other"]
    while seen[-1] != seen[-2]:
        time.sleep(1.5)
        seen.append(frame.screenshot_as_png)
    if method:
        hide = "for (const text of arguments[0].querySelectorAll('.words, .measured')) text.hidden = true"
        driver.execute_script(hide, frame)
    return Image.open(io.BytesIO(frame.screenshot_as_png)).convert("RGB")
