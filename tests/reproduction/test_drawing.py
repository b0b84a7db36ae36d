"""Networks that a reader draws for, and searches, in the pages: what they answer is what torch computes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reproduction import book
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
    reach_by_tab,
    requests,
    resize,
    until,
)


def element(name: str, **options: str) -> str:
    """A program as it stands in a page."""
    return programs.program(name, **options)._repr_mimebundle_()[0]["text/html"]


@pytest.fixture(scope="session")
def tried(tmp_path_factory) -> Path:
    """Pages in which a reader draws (this one) and searches, and one with neither, with the scripts of the book."""
    root = tmp_path_factory.mktemp("tried")
    (root / "book").mkdir()
    shutil.copy(book.ROOT / "_config.yml", root)
    shutil.copytree(book.ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(book.ROOT / "book" / "references.bib", root / "book")
    toc = "format: jb-book\nroot: book/index\nchapters: [{file: book/search}, {file: book/other}]\n"
    (root / "_toc.yml").write_text(toc, encoding="utf-8")
    (root / "book" / "index.md").write_text(
        f"# Draw\n\n{element('draw', method='IIW+DCC', split='stage2')}\n", encoding="utf-8"
    )
    (root / "book" / "search.md").write_text(f"# Search\n\n{element('search', set='shapes')}\n", encoding="utf-8")
    (root / "book" / "other.md").write_text("# Other\n", encoding="utf-8")
    return book.build(root, root) / "book" / "index.html"


def open_drawing(driver, page: Path, screen: str = "desktop") -> None:
    open_page(driver, page.as_uri(), screen)
    until(driver, lambda: "a-a says" in words(driver), "the networks have answered")


def words(driver) -> str:
    return driver.find_element(By.CSS_SELECTOR, ".compatkit-draw .words").text


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


def test_scripts_are_on_the_pages_alone_that_need_them(tried):
    for page, own in {
        "index": ["exported", "networks", "pad", "draw"],
        "search": ["exported", "search"],
        "other": [],
    }.items():
        text = (tried.parent / f"{page}.html").read_text(encoding="utf-8")
        assert re.findall(r"_static/(exported|networks|pad|draw|search)\.js", text) == own
        assert ("four networks say" in text or "Pick an image" in text) == bool(own), (
            "what a reader without scripts sees"
        )


@needs_browser
@pytest.mark.parametrize("method", export.METHODS)
def test_the_drawing_offers_what_is_exported_computes_what_torch_does_and_reads_its_examples(method, chromium, tried):
    open_drawing(chromium, tried)
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
    choose_method(chromium, method)
    assert "a-b says" in words(chromium)
    for digit in "0123456789":
        for _ in range(5):
            chromium.find_element(By.CSS_SELECTOR, f'[aria-label="write a {digit}"]').click()
            assert answers(chromium)[::3] == [digit] * 2, "both networks read an example right before the swap"


@needs_browser
def test_a_drawing_is_cut_and_stretched_as_images_of_the_sets_are(chromium, tried):
    open_drawing(chromium, tried)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (5, 22, 22), generator=generator)
    boxes = (0, 22, 0, 22), (3, 20, 9, 12), (5, 6, 2, 20), (10, 11, 10, 11), (1, 15, 4, 21)
    for image, (top, bottom, left, right) in zip(images, boxes, strict=True):
        inside = torch.zeros_like(image)
        inside[top:bottom, left:right] = 1
        image *= inside
    wanted = scale_bounding_box(images.float(), 16)
    for image, expected in zip(images, wanted, strict=True):
        found = chromium.execute_script(
            "return [...compatkitNet.stretched(arguments[0], 22, 16)]", image.flatten().tolist()
        )
        assert (torch.tensor(found).view(16, 16) - expected).abs().max() < 0.51


@needs_browser
@needs_scripts
@pytest.mark.parametrize(("width", "height"), [(1366, 650), (375, 700)])
def test_the_landing_page_opens_on_wrong_answers_that_are_seen(width, height, chromium, html):
    open_page(chromium, (html / "book" / "index.html").as_uri(), "phone" if width < 700 else "desktop")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    until(chromium, lambda: "a-a says" in words(chromium), "the networks have answered")
    method = chromium.find_element(By.CSS_SELECTOR, ".compatkit-draw input:checked").get_attribute("value")
    own, *recombined, other = answers(chromium)
    assert method == "independent" and own == other and own not in recombined
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
def test_drawing_with_the_pointer_is_answered(chromium, tried):
    open_drawing(chromium, tried)
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
def test_independent_networks_babble_and_compatible_ones_agree(chromium, tried):
    open_drawing(chromium, tried)
    rights = {}
    for method in ("independent", "IIW+DCC"):
        choose_method(chromium, method)
        rights[method] = [0] * 4
        for digit in range(9):
            chromium.find_element(By.CSS_SELECTOR, f'[aria-label="write a {digit}"]').click()
            rights[method] = [
                n + (said == str(digit)) for n, said in zip(rights[method], answers(chromium), strict=True)
            ]
    assert min(rights["IIW+DCC"]) >= 7
    independent = rights["independent"]
    assert min(independent[0], independent[3]) >= 7 and max(independent[1:3]) <= 3
    chromium.find_element(By.CSS_SELECTOR, '[aria-label="write a 9"]').click()
    assert answers(chromium)[0] == "9" and "Recombined networks cannot say 9: " in words(chromium)
    bars = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-draw .bar:last-child")
    shares = [
        float(chromium.execute_script("return arguments[0].style.getPropertyValue('--share')", bar)) for bar in bars
    ]
    assert shares[0] > 0 and shares[3] > 0 and shares[1:3] == [0, 0]


def choose_method(driver, method: str) -> None:
    driver.find_element(
        By.XPATH, f"//*[contains(@class, 'compatkit-draw')]//label[normalize-space()='{method}']"
    ).click()
    settled(driver, method)


def settled(driver, method: str) -> None:
    ready = "return document.querySelector('.compatkit-draw').ariaBusy !== 'true'"
    until(driver, lambda: driver.execute_script(ready), f"{method} has answered")
    assert driver.find_element(By.CSS_SELECTOR, ".compatkit-draw input:checked").get_attribute("value") == method


@needs_browser
def test_drawing_needs_no_mouse(chromium, tried):
    open_drawing(chromium, tried)
    element = chromium.find_element(By.CLASS_NAME, "compatkit-draw")
    reach_by_tab(chromium, element, element.find_element(By.CSS_SELECTOR, '[aria-label="write a 5"]'))
    ActionChains(chromium).send_keys(Keys.ENTER).perform()
    assert "b-b says 5" in words(chromium)
    reach_by_tab(chromium, element.find_element(By.CLASS_NAME, "choices"), pick_in(element, "IIW+DCC"))
    ActionChains(chromium).send_keys(Keys.ARROW_LEFT).perform()
    settled(chromium, "DCC")
    slider = element.find_element(By.CSS_SELECTOR, "input[type=range]")
    reach_by_tab(chromium, element.find_element(By.CLASS_NAME, "choices"), slider)
    ActionChains(chromium).send_keys(Keys.ARROW_RIGHT).perform()
    assert slider.get_attribute("aria-valuetext") == "stage 3"
    networks = export.read(programs.EXPORTED / "DCC.js")
    for note in element.find_elements(By.CLASS_NAME, "panel"):
        found = [
            c
            for c in networks.header["combinations"]
            if note.accessible_name == f"extractor {c['extractor']}, head {c['head']}"
            and c["split"] in (None, "stage3_block1")
        ]
        assert f"right on {100 * found[0]['accuracy']:.1f} % of {found[0]['images']} test images" in note.text
    for control in element.find_elements(By.CSS_SELECTOR, "input, button, [role=group]"):
        assert control.accessible_name


def pick_in(element, value: str):
    return element.find_element(By.CSS_SELECTOR, f'[value="{value}"]')


@needs_browser
def test_networks_are_loaded_when_they_are_chosen(chromium, tried):
    open_drawing(chromium, tried)

    def loaded() -> list[str]:
        return [url.rpartition("/")[2] for url in requests(chromium) if "/exported/" in url]

    assert loaded() == ["IIW-DCC.js"]
    choose_method(chromium, "RP")
    assert loaded() == ["RP.js"]
    choose_method(chromium, "IIW+DCC")
    assert loaded() == [], "once is enough"


@needs_browser
def test_networks_that_are_missing_or_cut_short_are_told_and_tried_again(chromium, tried):
    file = tried.parents[1] / "_static" / "exported" / "IIW.js"
    whole = file.read_bytes()
    open_drawing(chromium, tried)
    for damaged in (None, whole[: len(whole) // 2], whole.replace(b'"format":1', b'"format":7')):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        choose_method(chromium, "IIW")
        assert "IIW.js" in words(chromium) and answers(chromium) == ["–"] * 4
        choose_method(chromium, "IIW+DCC")
        file.write_bytes(whole)
        choose_method(chromium, "IIW")
        assert "a-a says" in words(chromium)
        chromium.execute_script("location.reload()")
        until(chromium, lambda: "a-a says" in words(chromium), "the page is there again")


@needs_browser
@pytest.mark.parametrize("width", [375, 390, 768, 1280])
def test_the_drawing_fits(width, chromium, tried):
    open_drawing(chromium, tried, "phone" if width < 700 else "desktop")
    resize(chromium, width)
    wide, inner = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == width
    for part in chromium.find_elements(By.CSS_SELECTOR, ".compatkit-draw *"):
        assert chromium.execute_script(
            "return arguments[0].scrollWidth <= arguments[0].clientWidth + 1 || !arguments[0].clientWidth", part
        ), part.get_attribute("outerHTML")


@needs_browser
@pytest.mark.parametrize("width", [375, 1280])
def test_a_query_shows_what_it_finds_before_and_after(width, chromium, tried):
    page = tried.with_name("search.html")
    open_page(chromium, page.as_uri(), "phone" if width < 700 else "desktop")
    resize(chromium, width)
    found = ".compatkit-search .found"
    until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, f"{found} .tile")) == 20, "a query has found")
    content = scripts.read(programs.EXPORTED / "shapes.js", "compatkitSearches", "data")
    hits = torch.tensor(
        [
            [
                [content["tiles"][tile] for tile in row].count(content["tiles"][query["tile"]])
                for row in query["found"].values()
            ]
            for query in content["queries"]
        ],
        dtype=torch.float64,
    )
    ordinary = int((hits - hits.mean(0)).norm(dim=1).argmin())
    buttons = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-search button")
    assert [button.get_attribute("aria-pressed") for button in buttons].index("true") == ordinary
    known = [query for query in content["queries"] if query["known"]]
    chosen, query = buttons[len(known) - 1], known[-1]
    reach_by_tab(chromium, buttons[len(known) - 2], chosen)
    ActionChains(chromium).send_keys(Keys.ENTER).perform()
    assert chosen.get_attribute("aria-pressed") == "true" and "both models know" in chosen.accessible_name
    rows = chromium.find_elements(By.CSS_SELECTOR, found)
    for row, case in zip(rows, content["cases"], strict=True):
        tiles = row.find_elements(By.CLASS_NAME, "tile")
        labels = [content["tiles"][tile] for tile in query["found"][case["name"]]]
        hits = [label == content["tiles"][query["tile"]] for label in labels]
        assert ["hit" in tile.get_attribute("class").split() for tile in tiles] == hits
        names = [content["classes"][label] + ", a hit" * hit for label, hit in zip(labels, hits, strict=True)]
        assert [tile.accessible_name for tile in tiles] == names
        assert f"{sum(hits)} of 5" in row.find_element(By.XPATH, "..").text
    recorded = ", ".join(f"{100 * case['recorded']:.1f} %" for case in content["cases"])
    assert f"its record has {recorded}." in chromium.find_element(By.CSS_SELECTOR, ".compatkit-search .measured").text
    assert content["classes"][content["tiles"][query["tile"]]] in chromium.find_element(By.CSS_SELECTOR, ".words").text
    wide, inner = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == width and console_errors(chromium) == []
