"""Pages opened in Chromium: what the tests of pages share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from reproduction import book
from reproduction.picture import CHROMIUM, DRIVER

SCREENS = {"desktop": (1280, 900), "phone": (375, 812)}

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="NO PAGE WAS OPENED: install chromium and chromedriver (chromium-driver)"
)
needs_scripts = pytest.mark.skipif(
    not (book._PACKAGES / book._MATHJAX).is_file(),
    reason="NO PAGE WAS OPENED: the book would load its formulas from a CDN; install npm and run `npm ci`",
)

WATCHES = """
    const figures = [...document.querySelectorAll(".compatkit-figure")];
    return document.readyState === "complete" && figures.every((figure) => figure.data && figure.clientWidth);
"""


def pages() -> list[str]:
    toc = yaml.safe_load((book.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [f"{name}.html" for name in book._toc_files(toc)]


def resize(driver: webdriver.Chrome, width: int, height: int = 800) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(driver: webdriver.Chrome, url: str, screen: str) -> None:
    resize(driver, *SCREENS[screen])
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(url)
    until(driver, lambda: driver.execute_script(WATCHES), "figures are drawn")


def open_program(driver: webdriver.Chrome, page: Path, width: int = 1000, query: str = ""):
    """Open the page of a program and wait until it says something; returns its element."""
    resize(driver, width)
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(page.as_uri() + query)
    until(driver, lambda: driver.find_elements(By.CLASS_NAME, "words") and words(driver), "the program is there")
    return driver.find_element(By.CLASS_NAME, "compatkit-program")


def words(driver) -> str:
    return driver.find_element(By.CLASS_NAME, "words").text


def until(driver: webdriver.Chrome, condition, what: str):
    return WebDriverWait(driver, 20, poll_frequency=0.05).until(lambda _: condition(), message=f"waited until {what}")


def console_errors(driver: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def requests(driver: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def answers(driver) -> list[str]:
    return [digit.text for digit in driver.find_elements(By.CSS_SELECTOR, ".compatkit-draw .digit")]


def reach_by_tab(driver, explorer, control) -> None:
    """Focus the control with nothing but the tab key, from the place before the explorer."""
    driver.execute_script(
        "const start = document.createElement('span'); start.tabIndex = -1; arguments[0].before(start); start.focus();",
        explorer,
    )
    for _ in range(40):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        if driver.switch_to.active_element == control:
            return
    pytest.fail("forty steps with the tab key did not reach the control")
