"""The rendered pages as a reader has them: no kernel, no network, on a laptop or a phone, by mouse or by keyboard."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from urllib.parse import urlencode

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from .browser import (
    SCREENS,
    WATCHES,
    console_errors,
    needs_browser,
    needs_scripts,
    open_page,
    pages,
    reach_by_tab,
    requests,
    resize,
    until,
)

pytestmark = [needs_browser, needs_scripts]

PICTURE = """
    return [...arguments[0].querySelectorAll(".compatkit-figure")].map((figure) => JSON.stringify(
        [figure.data, figure.layout.shapes, figure.layout.xaxis.title, figure.getAttribute("aria-label")]));
"""


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("page", pages())
def test_page_opens_whole_without_a_network_and_all_of_it_works(page, screen, chromium, address, html):
    open_page(chromium, address + page, screen)
    wide, inner = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    # A phone widens its window to what does not fit, and so hides it from the first comparison.
    assert wide <= inner == SCREENS[screen][0]
    assert [url for url in requests(chromium) if not url.startswith((address, "data:", "blob:", "chrome"))] == []
    for figure in chromium.find_elements(By.CLASS_NAME, "compatkit-figure"):
        drawn, column = chromium.execute_script(
            "return [arguments[0]._fullLayout.width, arguments[0].parentElement.clientWidth]", figure
        )
        assert 0.8 * column <= drawn <= column
        assert (figure.aria_role, bool(figure.accessible_name)) == ("image", True)
    explorers = chromium.find_elements(By.CLASS_NAME, "compatkit-explorer")
    assert len(explorers) == (html / page).read_text(encoding="utf-8").count('<div class="compatkit-explorer">')
    for explorer in explorers:
        for kind, press_and_key in CONTROLS.items():
            for control in seen(explorer, kind):
                _try(chromium, explorer, control, *press_and_key(control))
    assert console_errors(chromium) == []


def seen(element, selector: str) -> list:
    return [each for each in element.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]


def press(element) -> None:
    """Click in the middle of the window: at its end the theme's "back to top" lies over the page."""
    element.parent.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def _of_select(select):
    """What has the focus, what a press picks, what takes it back, and the key that picks as well."""
    start = int(select.get_property("selectedIndex"))
    options = select.find_elements(By.TAG_NAME, "option")
    other = next(i for i, option in enumerate(options) if option.is_enabled() and i != start)
    return select, options[other].click, options[start].click, Keys.ARROW_DOWN if other > start else Keys.ARROW_UP


def _of_radios(group):
    radios = group.find_elements(By.TAG_NAME, "input")
    assert all(radio.accessible_name for radio in radios)
    start = next(radio for radio in radios if radio.is_selected())
    other = next(radio for radio in radios if radio.is_enabled() and radio != start)
    return start, lambda: press(other), lambda: press(start), Keys.ARROW_RIGHT


def _of_slider(slider):
    value, width = slider.get_property("value"), slider.size["width"] // 2 - 3
    end = -width if value == slider.get_property("max") else width
    mouse = ActionChains(slider.parent)

    def back():
        slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * int(value))

    there = mouse.move_to_element_with_offset(slider, end, 0).click().perform
    return slider, there, back, Keys.ARROW_RIGHT if value == "0" else Keys.ARROW_LEFT


def _of_ticks(group):
    boxes = [label.find_element(By.TAG_NAME, "input") for label in seen(group, ".option")]
    assert len(boxes) > 1 and all(box.accessible_name and box.is_selected() for box in boxes)
    for box in boxes:
        press(box)
    assert [box.is_selected() for box in boxes] == [False] * (len(boxes) - 1) + [True], "the last tick stays"
    for box in boxes[:-1]:
        press(box)
    return boxes[0], lambda: press(boxes[0]), lambda: press(boxes[0]), Keys.SPACE


CONTROLS = {
    "select": _of_select,
    "fieldset:not(.ticks)": _of_radios,
    "[type=range]": _of_slider,
    "fieldset.ticks": _of_ticks,
}


def _try(driver, explorer, control, focused, there, back, key) -> None:
    """A control changes its explorer by mouse and by keyboard."""
    assert control.accessible_name
    first = picture(driver, explorer)
    there()
    assert picture(driver, explorer) != first
    back()
    assert picture(driver, explorer) == first
    reach_by_tab(driver, explorer, focused)
    ActionChains(driver).send_keys(key).perform()
    assert picture(driver, explorer) != first
    back()


def picture(driver, explorer) -> list[str]:
    """What the figures of an explorer show: drawing is done when the event of a control is."""
    return driver.execute_script(PICTURE, explorer)


def explorers_of(driver) -> list:
    return driver.find_elements(By.CLASS_NAME, "compatkit-explorer")


def choose(explorer, text: str) -> None:
    """Click the visible label or option of this text."""
    [label] = [each for each in seen(explorer, ".option, option") if each.text.splitlines()[-1:] == [text]]
    press(label)


def bars(driver, explorer) -> list[str]:
    return driver.execute_script(
        "return arguments[0].querySelector('.compatkit-figure').data[0].hovertext.map((text) => text.split(':')[0])",
        explorer,
    )


def lines(driver, explorer) -> list[str]:
    last = "[...arguments[0].querySelectorAll('.compatkit-figure')].at(-1)"
    return driver.execute_script(f"return {last}.data.map((line) => line.name).filter(Boolean)", explorer)


METHOD = "book/gygli/method.html"


def test_what_is_picked_is_shared_and_kept_in_the_address(chromium, address):
    open_page(chromium, address + METHOD, "desktop")
    one, other, *_ = explorers_of(chromium)
    assert "RP" in bars(chromium, one) and "RP" in lines(chromium, other)
    choose(one, "RP")
    choose(one, "glyphs_plain × glyphs_cluttered")
    assert "RP" not in bars(chromium, one) and "IIW+RP" in bars(chromium, one)
    assert "RP" not in lines(chromium, other) and "IIW+RP" in lines(chromium, other), "in every view of the page"
    assert "upper bound" in bars(chromium, one), "which the other does not know"
    assert "glyphs_plain, glyphs_plain" in picture(chromium, other)[0], "the data as well"
    query = chromium.current_url.partition("?")[2]
    assert query == "data=glyphs_plain+%C3%97+glyphs_cluttered&method+hidden=RP"
    shown = [picture(chromium, explorer) for explorer in (one, other)]

    open_page(chromium, f"{address}{METHOD}?highlight=x&{query}#the-idea", "desktop")
    one, other, *_ = explorers_of(chromium)
    assert [picture(chromium, explorer) for explorer in (one, other)] == shown, "a link shows what was seen"
    choose(one, "RP")
    assert "RP" in bars(chromium, one) and "RP" in lines(chromium, other)
    assert chromium.current_url.endswith("?highlight=x&data=glyphs_plain+%C3%97+glyphs_cluttered#the-idea")
    links = chromium.find_elements(By.CSS_SELECTOR, ".bd-toc-nav a, .headerlink")
    chromium.execute_script("arguments[0].click()", links[0])
    assert "data=glyphs" in chromium.current_url.partition("#")[0], "links within the page keep what is picked"
    assert console_errors(chromium) == []


def test_a_slider_turns_the_matrix_and_the_mark_of_the_curves(chromium, address):
    open_page(chromium, address + METHOD, "desktop")
    other = explorers_of(chromium)[1]
    matrix, curves = picture(chromium, other)
    slider = other.find_element(By.CSS_SELECTOR, "[type=range]")
    slider.send_keys(Keys.ARROW_LEFT)
    turned, marked = picture(chromium, other)
    assert turned != matrix and marked != curves and slider.get_attribute("aria-valuetext") == "stage2_block1"
    here = """
        const shapes = [...arguments[0].querySelectorAll(".compatkit-figure")].at(-1).layout.shapes;
        return shapes.filter((shape) => shape.name === "here").map((shape) => shape.x0);
    """
    assert chromium.execute_script(here, other) == [3]
    choose(other, "may be chosen (and are wrong)")
    assert not slider.is_displayed(), "measured at one cut alone: nothing to choose"
    choose(other, "left out of the choice")
    assert slider.is_displayed() and slider.get_attribute("aria-valuetext") == "stage2_block1", "the choice is kept"


NAMES = """
    return [...document.querySelectorAll(".compatkit-explorer .compatkit-figure")].map((figure) => {
        const [box, {xaxis}] = [figure.getBoundingClientRect(), figure._fullLayout];
        return (figure.layout.annotations ?? []).flatMap(({name, showarrow}, i) => {
            if (!name) return [];
            const drawn = figure.querySelector(`.annotation[data-index="${i}"]`);
            const text = drawn.querySelector("text").getBoundingClientRect();
            return [{
                middle: (text.top + text.bottom) / 2 - box.top,
                left: text.left - box.left - xaxis._offset - xaxis._length,
                right: box.right - text.right,
                end: figure.data.find((line) => line.meta === name).y.at(-1),
                led: showarrow,
            }];
        });
    }).filter((names) => names.length);
"""


@pytest.mark.parametrize("page", [METHOD, "book/gygli/split.html", "book/gygli/similarity.html"])
def test_names_stand_beside_their_lines_in_the_order_of_their_ends(page, chromium, address):
    open_page(chromium, address + page, "desktop")
    figures = chromium.execute_script(NAMES)
    assert figures
    for names in figures:
        names.sort(key=lambda name: -name["end"])
        for name in names:
            assert name["left"] > 0 and name["right"] >= 0 and not name["led"], "not cut, and no line through others"
        heights = [name["middle"] for name in names]
        assert min(low - high for high, low in pairwise(heights)) >= 14, "no name covers another"


POINT = """
    const [figure, name] = arguments;
    figure.scrollIntoView({block: "center", behavior: "instant"});
    const {x, y} = figure.data.find((line) => line.name === name);
    const {xaxis, yaxis, width, height} = figure._fullLayout;
    return [xaxis._offset + xaxis.l2p(x[2]) - width / 2, yaxis._offset + yaxis.l2p(y[2]) - height / 2];
"""


PLACES = """
    const figures = document.querySelectorAll(".compatkit-explorer .compatkit-figure");
    return [...figures].map(({data, layout}, i) => ({
        names: [...figures[i].querySelectorAll(".xtick text")]
            .map((text) => text.getBoundingClientRect()).map(({left, right}) => [left, right]),
        bands: layout.shapes.flatMap(({type, y0, y1}, k, all) => (type === "rect" ? [[y0, all[k + 1].y0, y1]] : [])),
        ends: data.filter(({error_y}) => error_y?.array).flatMap(
            ({y, error_y: {array, arrayminus}}) => y.flatMap((mean, k) => [mean - arrayminus[k], mean + array[k]])),
        arrows: data.flatMap(({y, hovertext}) => (hovertext?.[0] === "the interval goes on" ? y : [])),
        axis: layout.yaxis.range,
        slanted: layout.xaxis.tickangle !== 0,
    }));
"""


@pytest.mark.parametrize(("page", "what"), [("split", "arrows"), ("classes", "bands"), ("adaptation", "names")])
def test_names_do_not_touch_bands_are_about_their_lines_and_intervals_end_at_the_axis(page, what, chromium, address):
    open_page(chromium, f"{address}book/gygli/{page}.html", "phone")
    [figure] = chromium.execute_script(PLACES)
    assert figure[what] and len(figure["names"]) > 2
    for (_, end), (start, next_end) in pairwise(sorted(figure["names"], key=max)):
        assert next_end - end >= 18 if figure["slanted"] else start >= end, "lines of 13 px"
    assert all(low < mean < high and low + high == pytest.approx(2 * mean) for low, mean, high in figure["bands"])
    low, high = figure["axis"]
    assert low - 1e-9 <= min(figure["ends"]) < max(figure["ends"]) <= high + 1e-9
    assert set(figure["arrows"]) <= {low, high}


def test_a_figure_stands_alone_and_one_method_stands_out(chromium, address, html):
    open_page(chromium, f"{address}{METHOD}?method=DCC#figure-2", "desktop")
    figures = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-explorer figure")
    for figure in figures:
        text = figure.find_element(By.TAG_NAME, "figcaption").text
        assert re.search(r"Means of n = \d+ runs, 95 % intervals", text) and " × " in text
        link = figure.find_element(By.LINK_TEXT, "link").get_attribute("href")
        assert link.endswith(f"?method=DCC#{figure.get_attribute('id')}")
    labels = chromium.find_elements(By.CSS_SELECTOR, ".ticks label")
    one = next(label for label in labels if label.text.endswith("IIW+DCC"))
    faded = "return [...document.querySelectorAll('.barlayer .point')].map((bar) => bar.style.opacity)"
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
    ActionChains(chromium).move_to_element(one).pause(0.3).perform()
    opacities = chromium.execute_script(faded)
    assert sum(opacity == "" for opacity in opacities) == 1 < len(opacities)
    for shown in (1, len(opacities), 1):  # alone, among all again, alone
        one.find_element(By.TAG_NAME, "input").send_keys(Keys.ENTER)
        assert len(chromium.execute_script(faded)) == shown
    reset = chromium.find_element(By.XPATH, "//button[text()='Reset']")
    chromium.execute_script("arguments[0].click()", reset)
    assert len(chromium.execute_script(faded)) == len(opacities) and "?" not in chromium.current_url
    curves = chromium.find_elements(By.CLASS_NAME, "compatkit-figure")[-1]
    x, y = chromium.execute_script(POINT, curves, "IIW+DCC")
    ActionChains(chromium).move_to_element_with_offset(curves, x, y).pause(0.3).double_click().perform()
    assert lines(chromium, explorers_of(chromium)[1]) == ["IIW+DCC"]
    assert bars(chromium, explorers_of(chromium)[0]) == ["IIW+DCC"], "alone everywhere"
    chromium.execute_script("arguments[0].click()", reset)
    run = chromium.find_elements(By.CSS_SELECTOR, ".compatkit-figure .scatterlayer .point")[0]
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", run)
    ActionChains(chromium).move_to_element(run).pause(0.3).double_click().perform()
    assert chromium.execute_script(faded) == [""], "alone"
    link = chromium.find_element(By.CLASS_NAME, "compatkit-pick")
    live = "arguments[0].className = ''; arguments[0].href = 'pick:?data=glyphs_plain × glyphs_cluttered'"
    chromium.execute_script(live, link)  # as a live notebook has it
    chromium.execute_script("arguments[0].click()", link)
    assert "data=glyphs" in chromium.current_url


def test_the_numbers_and_a_sentence_say_what_is_shown(chromium, address):
    open_page(chromium, address + METHOD, "desktop")
    one = explorers_of(chromium)[0]
    live = one.find_element(By.CLASS_NAME, "live")
    before = live.get_property("textContent")
    assert before.startswith(
        "Recombination accuracy by method; data: cifar10 × tin10; test images: mean of both sets. Means of n = "
    )
    choose(one, "RP")
    after = live.get_property("textContent")
    assert live.get_attribute("aria-live") == "polite" and "; RP " in before and "; RP " not in after
    assert explorers_of(chromium)[1].find_element(By.CLASS_NAME, "live").get_attribute("aria-live") == "off", (
        "one speaks"
    )
    choose(one, "RP")
    one.find_element(By.TAG_NAME, "summary").click()
    rows = [row.text for row in one.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert len(rows) == len(bars(chromium, one))
    mean, half, n, paper, deviation = next(row for row in rows if row.startswith("IIW+DCC ")).split()[1:]
    assert float(half) == pytest.approx(4.303 * float(deviation) / 3**0.5, abs=0.2) and n == "3"
    hover = chromium.execute_script("return arguments[0].querySelector('.compatkit-figure').data[0].hovertext", one)
    [said] = [text for text in hover if text.startswith("IIW+DCC:")]
    assert said == f"IIW+DCC: {mean} ± {half} %, n = {n}" + ("" if paper == "–" else f"; paper {paper} %")


@pytest.mark.parametrize("page", [METHOD, "book/gygli/similarity.html"])
def test_figures_follow_the_theme(page, chromium, address):
    open_page(chromium, address + page, "desktop")
    colours = """
        const [figure] = [...document.querySelectorAll(".compatkit-figure")].slice(-1);
        document.documentElement.dataset.theme = arguments[0];
        return new Promise((done) => setTimeout(() => done({
            page: getComputedStyle(document.body).backgroundColor,
            ink: figure._fullLayout.font.color, paper: figure._fullLayout.paper_bgcolor,
            cards: [...document.querySelectorAll(".compatkit-figure, .compatkit-explorer, .output.text_html")].map(
                (element) => getComputedStyle(element).backgroundColor),
        }), 300));
    """
    light, dark = (chromium.execute_script(colours, theme) for theme in ("light", "dark"))
    assert light["ink"] != dark["ink"] and light["page"] != dark["page"]
    assert (
        set(light["cards"] + dark["cards"]) == {"rgba(0, 0, 0, 0)"}
        and light["paper"] == dark["paper"] == "rgba(0,0,0,0)"
    )


def test_explorers_work_from_a_disk(chromium, html):
    place = (html / METHOD).as_uri()
    open_page(chromium, place, "phone")
    one = explorers_of(chromium)[0]
    every = bars(chromium, one)
    choose(one, "IIW")
    assert chromium.current_url == f"{place}?method+hidden=IIW"
    chromium.refresh()
    until(chromium, lambda: chromium.execute_script(WATCHES), "figures are drawn")
    assert "IIW" not in bars(chromium, explorers_of(chromium)[0])
    open_page(chromium, f"{place}?{urlencode([('method hidden', name) for name in every])}", "phone")
    assert bars(chromium, explorers_of(chromium)[0]) == every, "an address that hides all shows all"
    assert console_errors(chromium) == []


BROKEN = """
    return [...document.querySelectorAll(".bd-article table.table :is(th, td)")].flatMap((cell) => {
        const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        const broken = [];
        while (texts.nextNode()) {
            for (const {0: word, index} of texts.currentNode.data.matchAll(/[^ \\n\\/-]+/g)) {
                const range = document.createRange();
                range.setStart(texts.currentNode, index);
                range.setEnd(texts.currentNode, index + word.length);
                if (new Set([...range.getClientRects()].map(({top}) => top)).size > 1) broken.push(word);
            }
        }
        return broken;
    });
"""
SCROLLED = """
    const scrolling = ".pst-scrollable-table-container, .bd-article mjx-container[display]";
    return [...document.querySelectorAll(scrolling)].filter((e) => e.scrollWidth > e.clientWidth + 1).map((element) => {
        const fades = () => getComputedStyle(element).maskImage !== "none";
        const first = element.querySelector("tbody tr > :first-child");
        const place = () => first && first.getBoundingClientRect().left;
        const before = {fades: fades(), first: place()};
        element.scrollLeft = element.scrollWidth;
        return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(
            {kind: element.localName, before, after: {fades: fades(), first: place()}}))));
    }).reduce(async (all, one) => [...(await all), await one], []);
"""


@pytest.mark.parametrize("page", [METHOD, "book/ramanujan/update.html"])
def test_what_is_too_wide_for_a_phone_scrolls_whole_and_shows_that_it_does(page, chromium, address):
    open_page(chromium, address + page, "phone")
    until(chromium, lambda: chromium.find_elements(By.CSS_SELECTOR, "mjx-container"), "formulas are set")
    chromium.execute_script("for (const folded of document.querySelectorAll('details')) folded.open = true")
    assert chromium.execute_script(BROKEN) == []
    scrolled = chromium.execute_script(SCROLLED)
    assert {one["kind"] for one in scrolled} >= ({"div", "mjx-container"} if page == METHOD else {"div"})
    for one in scrolled:
        assert one["before"]["fades"] and not one["after"]["fades"], "until its end is seen"
        if one["kind"] == "div":
            assert abs(one["before"]["first"] - one["after"]["first"]) < 1, "the first column stays"


def claims(driver) -> list[dict[str, str]]:
    """The claims of the report that can be seen."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.compatkit-forest li')].filter((row) => row.offsetParent)"
        ".map((row) => ({...row.dataset, id: row.id}))"
    )


def pick(driver, name: str, value: str = "on"):
    return driver.find_element(By.CSS_SELECTOR, f'[name="compatkit-{name}"][value="{value}"]')


@pytest.mark.parametrize("screen", SCREENS)
def test_the_reports_filters_work_by_mouse_and_by_keyboard(screen, chromium, address):
    open_page(chromium, f"{address}book/report.html", screen)
    every = claims(chromium)
    assert every and {row["kind"] for row in every} == {"finding"}, "checks and levels are there to be picked"
    pick(chromium, "paper", "B").click()
    assert claims(chromium) == [row for row in every if row["paper"] == "B"]
    pick(chromium, "paper", "B").send_keys(Keys.ARROW_LEFT)
    assert claims(chromium) == [row for row in every if row["paper"] == "A"], "arrow keys move within a group"
    pick(chromium, "verdict", "open").click()
    pick(chromium, "photographs").send_keys(Keys.SPACE)
    found = claims(chromium)
    assert found == [r for r in every if r["paper"] == "A" and r["verdict"] == "open" and "photographs" in r["is"]]
    tile = pick(chromium, "verdict", "open").find_element(By.XPATH, "..").text
    assert tile.split("\n")[1:] == [str(len(found)), f"A {len(found)}, B 0"], (
        "a tile counts what the other filters leave"
    )
    for field in chromium.find_elements(By.CSS_SELECTOR, ".compatkit-forest input"):
        assert field.accessible_name, "a screen reader says what is picked"
    total = len(chromium.find_elements(By.CSS_SELECTOR, ".compatkit-forest li"))
    assert chromium.find_element(By.CLASS_NAME, "count").text == f"{len(found)} of {total} rows"
    for section in chromium.find_elements(By.CSS_SELECTOR, ".compatkit-forest section"):
        rows = section.find_elements(By.TAG_NAME, "li")
        assert section.is_displayed() == any(row.is_displayed() for row in rows), "no name without a row"
    assert chromium.current_url.endswith("/report.html?paper=A&verdict=open&photographs=on")
    chromium.refresh()
    assert claims(chromium) == found
    pick(chromium, "paper", "all").click()
    pick(chromium, "photographs").click()
    assert chromium.current_url.endswith("/report.html?verdict=open")


def test_moved_margins_judge_by_the_rule_of_the_report(chromium, address, html):
    printed = re.findall(
        r'<li id="(claim-[^"]+)".*?data-verdict="([^"]+)"', (html / "book/report.html").read_text(encoding="utf-8")
    )
    open_page(chromium, f"{address}book/report.html?kind=all", "desktop")
    assert {(row["id"], row["verdict"]) for row in claims(chromium)} == set(printed), "as they are set"
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    slider = chromium.find_element(By.CSS_SELECTOR, ".bar [type=range]")
    chromium.execute_script(move, slider, 0)
    without = {row["id"]: row for row in claims(chromium)}
    assert not any(row["verdict"] == "equal" for row in without.values())
    chromium.execute_script(move, slider, 5)
    wide = {row["id"]: row for row in claims(chromium)}
    for name, row in wide.items():
        if row["direction"] == "above" and row["verdict"] in ("shown", "contradicted"):
            assert without[name]["verdict"] == row["verdict"], "what a wide margin decides a narrow one does"
    assert Counter(row["verdict"] for row in wide.values()) != Counter(word for _, word in printed)


# --- finding one's way ------------------------------------------------------------------------------------------------


def toggle(driver, name: str):
    """The button of the page that is to be seen, of those the theme has."""
    [button] = [each for each in driver.find_elements(By.CLASS_NAME, name) if each.is_displayed()]
    return button


def link_to(driver, target: str) -> list:
    return seen(driver, f".bd-sidebar-primary a[href*='{target}'], .bd-sidebar-secondary a[href*='{target}']")


@pytest.mark.parametrize("width", [375, 768, 1000, 1280])
def test_the_menu_leads_to_a_chapter(width, chromium, address):
    open_page(chromium, address + METHOD, "phone")
    resize(chromium, width)
    over_the_page = width < 992
    assert bool(link_to(chromium, "analysis.html")) != over_the_page
    toggle(chromium, "primary-toggle").click()
    until(chromium, lambda: bool(link_to(chromium, "analysis.html")) == over_the_page, "the menu opens, or closes")
    if not over_the_page:
        toggle(chromium, "primary-toggle").click()
        until(chromium, lambda: link_to(chromium, "analysis.html"), "the menu opens again")
    link_to(chromium, "analysis.html")[0].click()
    until(chromium, lambda: chromium.current_url.endswith("/book/gygli/analysis.html"), "the chapter opens")
    assert console_errors(chromium) == []


@pytest.mark.parametrize("width", [375, 768, 1000, 1280])
def test_the_contents_lead_to_a_section(width, chromium, address):
    open_page(chromium, address + METHOD, "phone")
    resize(chromium, width)
    if width < 1200:
        assert link_to(chromium, "#exercises") == []
        toggle(chromium, "secondary-toggle").click()
    until(chromium, lambda: link_to(chromium, "#exercises"), "the contents are open")
    link_to(chromium, "#exercises")[0].click()
    heading = chromium.find_element(By.CSS_SELECTOR, "#exercises h2")
    on_top = """
        const {x, y, height} = arguments[0].getBoundingClientRect();
        return arguments[0].contains(document.elementFromPoint(x + 5, y + height / 2));
    """
    until(chromium, lambda: chromium.execute_script(on_top, heading), "the section is there, and nothing over it")
    assert console_errors(chromium) == []


@pytest.mark.parametrize("screen", SCREENS)
def test_the_sign_of_the_search_is_not_on_what_is_typed(screen, chromium, address):
    open_page(chromium, address + METHOD, screen)
    [button] = seen(chromium, ".search-button__button")
    button.click()
    chromium.switch_to.active_element.send_keys("similarity")
    sign, text = chromium.execute_script("""
        const field = document.activeElement;
        const {paddingLeft, borderLeftWidth} = getComputedStyle(field);
        const sign = field.parentElement.querySelector("i").getBoundingClientRect();
        return [sign.right, field.getBoundingClientRect().left + parseFloat(paddingLeft) + parseFloat(borderLeftWidth)];
    """)
    assert 0 < sign <= text


FOUND = "return [...document.querySelectorAll('ul.search > li > a')].map((link) => link.getAttribute('href'))"


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ("similarity", "book/gygli/similarity.html", "book/reference/"),
        ("update", "book/ramanujan/", "book/reference/"),
        ("linear_cka", "book/reference/compatkit.similarity.html#compatkit.similarity.linear_cka", "book/reference/"),
    ],
)
def test_the_search_has_chapters_before_modules_but_for_a_name(query, first, last, chromium, address):
    open_page(chromium, f"{address}search.html?q={query}", "desktop")
    until(chromium, lambda: "finished" in chromium.find_element(By.ID, "search-results").text, "the search is done")
    found = chromium.execute_script(FOUND)
    assert found[0].startswith(first) and found[-1].startswith(last)
    modules = [link for link in found if re.fullmatch(r"book/reference/[^#]*", link)]
    pages_found = [link for link in found if link.endswith(".html")]
    assert modules and pages_found[-len(modules) :] == modules, "pages of modules come last"
