"""Networks that a reader draws for, and searches, in the pages: what they answer is what torch computes."""

from __future__ import annotations

import re

import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reproduction.images import scale_bounding_box
from reproduction.runs.export import networks as export
from reproduction.runs.export import scripts
from reproduction.show import programs

from .browser import (
    answers,
    console_errors,
    needs_browser,
    needs_scripts,
    open_page,
    open_program,
    reach_by_tab,
    requests,
    resize,
    until,
    words,
)
from .in_node import in_node, needs_node


def open_drawing(driver, bare, method: str = "IIW+DCC") -> None:
    open_program(driver, bare["draw"])
    choose(driver, method)


def choose(driver, method: str) -> None:
    pill = f"//*[contains(@class, 'compatkit-draw')]//label[normalize-space()='{method}']"
    driver.find_element(By.XPATH, pill).click()
    settled(driver, method)


def settled(driver, method: str) -> None:
    ready = "return document.querySelector('.compatkit-draw').ariaBusy !== 'true'"
    until(driver, lambda: driver.execute_script(ready), f"{method} has answered")
    assert driver.find_element(By.CSS_SELECTOR, ".compatkit-draw input:checked").get_attribute("value") == method


def write(driver, digit: int | str) -> list[str]:
    driver.find_element(By.CSS_SELECTOR, f'[aria-label="write a {digit}"]').click()
    return answers(driver)


def draw(driver, *points: tuple[float, float]) -> None:
    """One stroke with the mouse through these points, in 0..1 of the paper."""
    paper = driver.find_element(By.CSS_SELECTOR, ".compatkit-draw .input > canvas")
    width, height = paper.size["width"], paper.size["height"]
    pen = ActionChains(driver, duration=20)
    for i, (x, y) in enumerate(points):
        pen.move_to_element_with_offset(paper, round((x - 0.5) * width), round((y - 0.5) * height))
        if i == 0:
            pen.click_and_hold()
    pen.release().perform()


def test_scripts_are_on_the_pages_alone_that_need_them(html):
    needed = {
        "book/index": {"draw", "train", "carry"},
        "book/ramanujan/update": {"search"},
        "book/gygli/analysis": set(),
    }
    for page, names in needed.items():
        text = (html / f"{page}.html").read_text(encoding="utf-8")
        wanted = {script for name in names for script in programs.SCRIPTS[name]}
        assert set(re.findall(r"_static/(\w+\.js)", text)) & set(sum(programs.SCRIPTS.values(), ())) == wanted


@needs_browser
@pytest.mark.parametrize("method", export.METHODS)
def test_the_drawing_offers_what_is_exported_computes_what_torch_does_and_reads_its_examples(method, chromium, bare):
    open_drawing(chromium, bare, method)
    offered = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-draw input[type=radio]")
    assert [radio.get_attribute("value") for radio in offered] == list(export.METHODS)
    networks = export.read(scripts.path_of(programs.EXPORTED, method))
    images = torch.randint(256, (10, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    found = chromium.execute_async_script(
        """
        const [method, images, done] = arguments;
        compatkitNet.load(method).then((networks) => done(networks.file.combinations.map(
            (combination) => images.map((image) => [...compatkitNet.logits(networks, combination, image)]))));
        """,
        method,
        images.flatten(1).tolist(),
    )
    assert len(found) == len(networks.header["combinations"]) == 12
    for combination, logits in zip(networks.header["combinations"], found, strict=True):
        own = networks.header["networks"][combination["extractor"]]
        pixels = (images / 255 - own["mean"][0]) / own["std"][0]
        wanted = export.rebuilt(networks, combination)(pixels)
        assert (torch.tensor(logits) - wanted).abs().max() < 1e-3
    assert "a-b says" in words(chromium)
    for digit in "0123456789":
        for _ in range(5):
            assert write(chromium, digit)[::3] == [digit] * 2, "both networks read an example right before the swap"


@needs_node
def test_a_drawing_is_cut_and_stretched_as_images_of_the_sets_are():
    images = torch.randint(1, 256, (5, 22, 22), generator=torch.Generator().manual_seed(0))
    boxes = (0, 22, 0, 22), (3, 20, 9, 12), (5, 6, 2, 20), (10, 11, 10, 11), (1, 15, 4, 21)
    for image, (top, bottom, left, right) in zip(images, boxes, strict=True):
        inside = torch.zeros_like(image)
        inside[top:bottom, left:right] = 1
        image *= inside
    stretched = "return given.images.map((image) => [...compatkitNet.stretched(image, 22, 16)]);"
    found = torch.tensor(in_node(stretched, images=images.flatten(1).tolist())).view(5, 16, 16)
    assert (found - scale_bounding_box(images.float(), 16)).abs().max() < 0.51


@needs_browser
@needs_scripts
@pytest.mark.parametrize(("width", "height"), [(1366, 650), (375, 700)])
def test_the_landing_page_opens_on_wrong_answers_that_are_seen(width, height, chromium, html):
    open_page(chromium, (html / "book" / "index.html").as_uri(), "phone" if width < 700 else "desktop")
    resize(chromium, width, height)
    until(chromium, lambda: "a-a says" in words(chromium), "the networks have answered")
    settled(chromium, "independent")
    own, *recombined, other = answers(chromium)
    assert own == other and own not in recombined
    paper, shown = chromium.execute_script("""
        return [".input > canvas", ".answers"].map(
            (part) => document.querySelector(`.compatkit-draw ${part}`).getBoundingClientRect().toJSON());
    """)
    if width < 700:
        assert 0 < shown["top"] - paper["bottom"] < 30, "right under the paper"
        wrong = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-draw .digit")[1]
        assert wrong.rect["y"] + wrong.rect["height"] < height, "without scrolling"
    else:
        assert shown["left"] > paper["right"] and shown["bottom"] < height, "beside it, without scrolling"


@needs_browser
def test_drawing_with_the_pointer_is_answered(chromium, bare):
    open_drawing(chromium, bare)
    assert answers(chromium) == ["5"] * 4, "the example that stands there first"
    draw(chromium, (0.2, 0.15), (0.5, 0.15), (0.8, 0.15), (0.65, 0.5), (0.5, 0.9))
    until(chromium, lambda: answers(chromium) == ["7"] * 4, "a 7 is seen")
    assert "b-b says 7" in words(chromium) and "All four agree." in words(chromium)
    draw(chromium, (0.35, 0.5), (0.75, 0.5))
    until(chromium, lambda: "says" in words(chromium), "a second stroke is added")
    chromium.find_element(By.CSS_SELECTOR, ".compatkit-draw .clear").click()
    assert answers(chromium) == ["–"] * 4 and words(chromium).startswith("Draw a digit")
    draw(chromium, (0.5, 0.5))
    until(chromium, lambda: "–" not in answers(chromium), "a dot is an image as well")
    assert console_errors(chromium) == []


@needs_browser
def test_the_class_that_is_not_shared_cannot_be_said_after_the_swap(chromium, bare):
    open_drawing(chromium, bare)
    assert write(chromium, 9)[0] == "9" and "Recombined networks cannot say 9: " in words(chromium)
    bars = (
        "return [...document.querySelectorAll('.bar:last-child')].map((bar) => +bar.style.getPropertyValue('--share'))"
    )
    own, *recombined, other = chromium.execute_script(bars)
    assert own > 0 and other > 0 and recombined == [0, 0]


@needs_browser
def test_drawing_needs_no_mouse(chromium, bare):
    open_drawing(chromium, bare)
    element = chromium.find_element(By.CLASS_NAME, "compatkit-draw")
    choices = element.find_element(By.CLASS_NAME, "choices")
    reach_by_tab(chromium, element, element.find_element(By.CSS_SELECTOR, '[aria-label="write a 5"]'))
    ActionChains(chromium).send_keys(Keys.ENTER).perform()
    assert "b-b says 5" in words(chromium)
    reach_by_tab(chromium, choices, element.find_element(By.CSS_SELECTOR, '[value="IIW+DCC"]'))
    ActionChains(chromium).send_keys(Keys.ARROW_LEFT).perform()
    settled(chromium, "DCC")
    slider = element.find_element(By.CSS_SELECTOR, "input[type=range]")
    reach_by_tab(chromium, choices, slider)
    ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    assert slider.get_attribute("aria-valuetext") == "stage 3"
    panels = {panel.accessible_name: panel.text for panel in element.find_elements(By.CLASS_NAME, "panel")}
    for c in export.read(programs.EXPORTED / "DCC.js").header["combinations"]:
        if c["split"] in (None, "stage3_block1"):
            said = f"right on {100 * c['accuracy']:.1f} % of {c['images']} test images"
            assert said in panels[f"extractor {c['extractor']}, head {c['head']}"]


@needs_browser
def test_networks_are_loaded_once_when_they_are_chosen_and_what_is_missing_or_cut_short_is_tried_again(chromium, bare):
    def loaded() -> list[str]:
        return [url.rpartition("/")[2] for url in requests(chromium) if "/exported/" in url]

    open_drawing(chromium, bare)
    assert loaded() == ["independent.js", "IIW-DCC.js"]
    file = bare["draw"].parent / "exported" / "IIW.js"
    whole = file.read_bytes()
    for damaged in (None, whole[: len(whole) // 2], whole.replace(b'"format":1', b'"format":7')):
        open_drawing(chromium, bare)
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        choose(chromium, "IIW")
        assert "IIW.js" in words(chromium) and answers(chromium) == ["–"] * 4
        loaded()
        choose(chromium, "IIW+DCC")
        assert loaded() == [], "once is enough"
        file.write_bytes(whole)
        choose(chromium, "IIW")
        assert "a-a says" in words(chromium)


@needs_browser
def test_a_query_shows_what_it_finds_before_and_after(chromium, bare):
    open_program(chromium, bare["search"])
    content = scripts.read(programs.EXPORTED / "shapes.js", "compatkitSearches", "data")

    def labels(tiles: list[int]) -> list[int]:
        return [content["tiles"][tile] for tile in tiles]

    hits = torch.tensor(
        [[labels(row).count(*labels([one["tile"]])) for row in one["found"].values()] for one in content["queries"]],
        dtype=torch.float64,
    )
    buttons = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-search button")
    pressed = [button.get_attribute("aria-pressed") for button in buttons].index("true")
    assert pressed == int((hits - hits.mean(0)).norm(dim=1).argmin()), "the most ordinary"
    known = [query for query in content["queries"] if query["known"]]
    chosen, query = buttons[len(known) - 1], known[-1]
    reach_by_tab(chromium, buttons[len(known) - 2], chosen)
    ActionChains(chromium).send_keys(Keys.ENTER).perform()
    assert chosen.get_attribute("aria-pressed") == "true" and "both models know" in chosen.accessible_name
    [own] = labels([query["tile"]])
    for row, case in zip(chromium.find_elements(By.CSS_SELECTOR, ".found"), content["cases"], strict=True):
        tiles, found = row.find_elements(By.CLASS_NAME, "tile"), labels(query["found"][case["name"]])
        assert ["hit" in tile.get_attribute("class").split() for tile in tiles] == [label == own for label in found]
        names = [content["classes"][label] + ", a hit" * (label == own) for label in found]
        assert [tile.accessible_name for tile in tiles] == names
        assert f"{found.count(own)} of 5" in row.find_element(By.XPATH, "..").text
    recorded = ", ".join(f"{100 * case['recorded']:.1f} %" for case in content["cases"])
    assert f"its record has {recorded}." in chromium.find_element(By.CLASS_NAME, "measured").text
    assert content["classes"][own] in words(chromium)
