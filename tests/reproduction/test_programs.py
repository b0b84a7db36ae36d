"""What a reader tries, opened from a disk: by mouse, keyboard and touch, on a phone, with scripts off, and live."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from compatkit.alignment import ridge
from reproduction.runs.export import digits, gallery, scripts, seams
from reproduction.show import programs

from .browser import console_errors, needs_browser, open_program, requests, until, words
from .in_node import NODE, a_run, needs_node

SHIFTS = """
    new PerformanceObserver((list) => {
        for (const {hadRecentInput, value} of list.getEntries())
            if (!hadRecentInput) globalThis.shifted = (globalThis.shifted ?? 0) + value;
    }).observe({type: "layout-shift", buffered: true});
"""


CUT = """
    return [...document.querySelectorAll(".compatkit-draw *")]
        .filter(({clientWidth, scrollWidth}) => clientWidth && scrollWidth > clientWidth + 1);
"""


def trained(driver) -> None:
    """Waits for a run: on a busy machine it takes longer than a page."""
    wait = WebDriverWait(driver, 120, poll_frequency=0.1)
    wait.until(lambda _: "as trained" in words(driver), message="waited until both networks are trained")


@needs_browser
@pytest.mark.parametrize("width", [375, 1000])
@pytest.mark.parametrize("name", programs.SCRIPTS)
def test_each_fits_and_says_nothing_on_the_console_and_loads_from_the_disk_alone(name, width, chromium, bare):
    open_program(chromium, bare[name], width)
    wide, inner = chromium.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == width
    assert console_errors(chromium) == []
    assert [url for url in requests(chromium) if not url.startswith(("file:", "data:", "blob:"))] == []
    assert chromium.execute_script(CUT) == []
    for control in chromium.find_elements(By.CSS_SELECTOR, ".compatkit-program :is(input, button, select, [role])"):
        assert control.accessible_name or not control.is_displayed(), control.get_attribute("outerHTML")


@needs_browser
@pytest.mark.parametrize("name", programs.SCRIPTS)
def test_without_scripts_there_is_a_picture_and_its_sentence(name, chromium, bare):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(bare[name].as_uri())
        still = chromium.find_element(By.CLASS_NAME, "still")
        assert still.is_displayed() and still.size["height"] > 200
        assert chromium.find_element(By.CSS_SELECTOR, ".still + p").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@needs_browser
def test_two_networks_learn_after_a_guess_with_nothing_but_the_keyboard(chromium, bare):
    open_program(chromium, bare["train"], query="?train=start.classes-0-9-16")
    guess = chromium.find_element(By.CLASS_NAME, "guess")
    guess.send_keys(Keys.HOME, Keys.PAGE_UP)
    assert guess.get_property("value") == "10"
    play = chromium.find_element(By.CLASS_NAME, "play")
    play.send_keys(Keys.ENTER)
    until(chromium, lambda: play.text == "Pause", "it runs")
    trained(chromium)
    assert words(chromium).startswith("IIW+DCC: as trained 9") and "You guessed 10" in words(chromium)
    chromium.find_element(By.CSS_SELECTOR, '[aria-label="write a 7"]').send_keys(Keys.ENTER)
    until(
        chromium,
        lambda: [digit.text for digit in chromium.find_elements(By.CSS_SELECTOR, ".card .digit")] == ["7"] * 4,
        "all four read it",
    )
    assert len(chromium.find_elements(By.CSS_SELECTOR, ".ghosts path")) == 1
    play.send_keys(Keys.ENTER)
    until(chromium, lambda: "both learn" in words(chromium), "another seed runs")
    trained(chromium)
    assert "Over 2 seeds" in words(chromium), "a second seed gives a mean"
    assert chromium.current_url.endswith("?train=start.classes-1-9-16")
    pointer = chromium.find_element(By.CLASS_NAME, "pointer")
    assert pointer.text == "guess 10", "it is for every seed of a setting"
    chromium.find_element(By.NAME, "rotation").send_keys(Keys.SPACE)
    assert pointer.text == "your guess?" and "Drag the mark" in words(chromium), "and for no other"
    assert console_errors(chromium) == []


@needs_browser
def test_two_networks_learn_by_touch_on_a_phone_and_nothing_moves(chromium, bare):
    open_program(chromium, bare["train"], 375)
    chromium.execute_script(SHIFTS)
    guess = chromium.find_element(By.CLASS_NAME, "guess")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", guess)
    x, y = chromium.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]",
        guess,
    )
    for kind, points in (("Start", [(x, y)]), ("Move", [(x, y + 40)]), ("End", [])):
        touch = {"type": f"touch{kind}", "touchPoints": [{"x": u, "y": v} for u, v in points]}
        chromium.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
    assert 10 < int(guess.get_property("value")) < 45
    chromium.find_element(By.CLASS_NAME, "play").click()
    trained(chromium)
    assert words(chromium).startswith("independent: as trained 9")
    assert chromium.execute_script("return globalThis.shifted ?? 0") < 0.02


@needs_browser
def test_the_seam_untangles_and_the_answer_follows(chromium, bare):
    open_program(chromium, bare["seam"])
    file = scripts.read(programs.EXPORTED / "seam-independent.js", "compatkitSeams", "name")
    until(chromium, lambda: "4 %" in words(chromium), "the seam is there")
    slider = chromium.find_element(By.CSS_SELECTOR, "[type=range]")
    for stage in file["stages"]:
        until(chromium, lambda stage=stage: f"{100 * stage['accuracy']:.0f} %" in words(chromium), "the stage is shown")
        crossed = len(chromium.find_elements(By.CSS_SELECTOR, ".lines .crossed"))
        if stage["images"] == 0:
            assert crossed > 20
        else:
            until(
                chromium, lambda: not chromium.find_elements(By.CSS_SELECTOR, ".lines .crossed"), "lines are straight"
            )
        slider.send_keys(Keys.ARROW_RIGHT)
    answer = chromium.find_element(By.CSS_SELECTOR, ".answer .digit")
    assert answer.text == "5" and "wrong" not in answer.get_attribute("class")
    assert [stage["recorded"] is not None for stage in file["stages"]] == [True, True, False, False, True, True, True]
    assert {path.stem for path in programs.EXPORTED.glob("seam-*")} == {f"seam-{method}" for method in seams.METHODS}


INKED = """
    const [{ width, height }] = document.querySelectorAll(".plane canvas");
    const { data } = document.querySelector(".plane canvas").getContext("2d").getImageData(0, 0, width, height);
    return [...data.keys()].filter((i) => i % 28 === 3 && data[i]).map((i) => [(i >> 2) % width, (i >> 2) / width]);
"""


@needs_browser
def test_a_gallery_is_carried_over_by_mouse_and_by_keyboard(chromium, bare):
    open_program(chromium, bare["carry"], query="?carry=colour-shape-640-ridge")
    scores = lambda: [int(s.text.split()[0]) for s in chromium.find_elements(By.CSS_SELECTOR, ".score b")]  # noqa: E731
    old, unmapped, carried, anew = scores()
    assert abs(np.corrcoef(chromium.execute_script(INKED), rowvar=False)[0, 1]) < 0.5, "the plane has two directions"
    assert unmapped < 10 < old < carried and carried > 90 and anew > 95
    for stage, score in enumerate((old, unmapped, carried, anew)):
        chromium.find_element(By.CSS_SELECTOR, f".stages [value='{stage}']").send_keys(Keys.SPACE)
        hits = len(chromium.find_elements(By.CSS_SELECTOR, ".found .hit"))
        assert abs(20 * hits - score) <= 20, "what is seen first is as good as the score"
    chromium.find_element(By.CLASS_NAME, "play").click()
    until(chromium, lambda: "what ridge made of the old vectors" in words(chromium), "it has arrived")
    chromium.find_element(By.CSS_SELECTOR, "[type=range]").send_keys(Keys.HOME)
    assert scores()[2] < carried and scores()[::3] == [old, anew], "few pairs, worse map"
    chromium.find_element(By.CSS_SELECTOR, ".side [value=none]").send_keys(Keys.SPACE)
    chromium.find_element(By.CSS_SELECTOR, ".map [value=h]").send_keys(Keys.SPACE)
    assert scores()[2] < 70 and "what h made" in words(chromium)
    chosen = chromium.find_element(By.CSS_SELECTOR, "select").get_attribute("value")
    canvas = chromium.find_element(By.CSS_SELECTOR, ".plane canvas")
    ActionChains(chromium).move_to_element_with_offset(canvas, 60, -40).click().perform()
    assert chromium.find_element(By.CSS_SELECTOR, "select").get_attribute("value") != chosen, "another query"
    assert chromium.current_url.endswith("?carry=colour-none-20-h") and console_errors(chromium) == []


@needs_browser
@pytest.mark.parametrize("name", ["seam", "carry"])
def test_nothing_moves_on_a_phone_while_it_is_used(name, chromium, bare):
    open_program(chromium, bare[name], 375)
    chromium.execute_script(SHIFTS)
    for key in (Keys.HOME, *[Keys.ARROW_RIGHT] * 3, Keys.END):
        chromium.find_element(By.CSS_SELECTOR, "[type=range]").send_keys(key)
    for control in chromium.find_elements(By.CSS_SELECTOR, ".compatkit-program :is(.play, [type=radio])"):
        control.send_keys(Keys.SPACE)
    assert chromium.execute_script("return globalThis.shifted ?? 0") < 0.02


@needs_browser
def test_who_wants_no_motion_sees_the_gallery_arrive_at_once(chromium, bare):
    reduced = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": reduced})
    try:
        open_program(chromium, bare["carry"])
        script = (
            "const [done] = arguments; const seen = () => document.querySelector('canvas').toDataURL();"
            "document.querySelector('[value=\"3\"]').click(); const first = seen();"
            "setTimeout(() => done(first === seen()), 300);"
        )
        assert chromium.execute_async_script(script), "the first picture is the last one"
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    open_program(chromium, bare["carry"])
    assert not chromium.execute_async_script(script), "else pictures fly"


@needs_node
@pytest.mark.parametrize(("n", "width"), [(20, 3), (40, 42), (201, 12)])
def test_the_map_of_the_page_is_that_of_the_library(n, width):
    generator = torch.Generator().manual_seed(n)
    old, new = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (width, 4))
    new = new * 0.3 + old[:, :3] @ torch.randn(3, 4, generator=generator, dtype=torch.float64)
    given = [{"rows": n, "width": x.shape[1], "data": x.flatten().tolist()} for x in (old, new)]
    script = (programs.SITE / "ridge.js").read_text(encoding="utf-8") + (
        f"const [old, fresh] = {json.dumps(given)}.map((x) => ({{...x, data: Float64Array.from(x.data)}}));"
        "const map = compatkitRidge.ridge(old, fresh);"
        "console.log(JSON.stringify([...compatkitRidge.applied(old, map).data]));"
    )
    found = json.loads(subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, check=True).stdout)
    np.testing.assert_allclose(np.reshape(found, (n, 4)), ridge(old, new)(old), rtol=1e-6, atol=1e-8)


def test_the_gallery_is_that_of_the_recorded_runs():
    content = scripts.read(programs.EXPORTED / f"{gallery.NAME}.js", "compatkitGallery", "name")
    assert len(content["labels"]) == 300 and len(content["pair_labels"]) == gallery.PAIRS
    runs = gallery.runs_of("laptop")
    assert content["recorded"] == {
        f"{old} / {side}": gallery.recorded(run, "laptop") for (old, side), run in runs.items()
    }


LIVE = """
    const [source, state, files, done] = arguments;
    const model = {
        heard: [],
        get: (name) => state[name],
        set(name, value) { state[name] = value; this.tell(`change:${name}`); },
        save_changes() {},
        on(event, callback) { this.heard.push([event, callback]); },
        off() {},
        tell(event, news) { for (const [own, hear] of this.heard) if (own === event) hear(news); },
        send(file) { setTimeout(() => this.tell("msg:custom", {file, text: files[file]})); },
    };
    globalThis.model = model;
    const module = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    import(module).then((widget) => {
        const el = document.createElement("div");
        document.body.replaceChildren(el);
        widget.default.render({model, el});
        done(el.innerHTML.length);
    }, (error) => done(String(error)));
"""


def live(driver, bare, name, **state):
    driver.get(bare["search"].as_uri())
    widget = programs.program(name)
    files = {path.name: path.read_text(encoding="utf-8") for path in programs.EXPORTED.glob("*.js")}
    found = driver.execute_async_script(LIVE, widget._esm, {"name": name, "options": {}, **state}, files)
    assert isinstance(found, int), found
    until(driver, lambda: driver.find_elements(By.CLASS_NAME, "words") and words(driver), "it is there")


@needs_browser
@pytest.mark.parametrize("name", programs.SCRIPTS)
def test_live_the_same_programs_are_widgets(name, chromium, bare):
    live(chromium, bare, name)
    assert console_errors(chromium) == []
    with pytest.raises(ValueError, match="name: must be one of draw, "):
        programs.program("magic")


@needs_node
@needs_browser
@pytest.mark.parametrize("when", ["before it is shown", "after"])
def test_live_the_page_goes_on_with_the_weights_that_a_cell_gives(when, chromium, bare):
    run = a_run()
    given = digits.replaced(run, digits.networks(run))
    live(chromium, bare, "train", **({"trained": given} if when != "after" else {}))
    if when == "after":
        chromium.execute_script("globalThis.model.set('trained', arguments[0])", given)
    until(chromium, lambda: words(chromium).startswith("IIW+DCC, 8 channels, from Python, seed 0"), "they were taken")
    said = ", ".join(
        f"{name} {100 * share:.0f}\xa0%"
        for name, share in zip(("a-a", "a-b", "b-a", "b-b"), run["accuracies"], strict=True)
    )
    chart = chromium.find_element(By.CSS_SELECTOR, ".chart svg")
    until(chromium, lambda: chart.get_attribute("aria-label") == f"Accuracy after 0 of 200 steps: {said}.", "as given")
    names = [name.text for name in chart.find_elements(By.CSS_SELECTOR, "text.name")]
    assert names[0] == f"a-a {100 * run['accuracies'][0]:.0f}", "seen before the next step"
    chromium.find_element(By.CLASS_NAME, "step").click()
    until(chromium, lambda: "after 1 of" in chart.get_attribute("aria-label"), "it goes on")
    assert chromium.find_element(By.CLASS_NAME, "play").text == "Go on"
    assert console_errors(chromium) == []
