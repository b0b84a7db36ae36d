"""What the chapters say, against what they show."""

import functools
import json
import re
import urllib.parse
from pathlib import Path

import pytest

from reproduction import book
from reproduction.records.published import paper_numbers

CHAPTERS = [path for path in book.chapters() if path.suffix == ".ipynb"]
TRAINS = re.compile(r"\b(train|adapt|transfer|update_head|Trainer)\(")

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


@functools.cache
def cells(chapter: Path) -> list[dict]:
    found = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def prose(chapter_cells: list[dict]) -> str:
    return "\n".join(cell["source"] for cell in chapter_cells if cell["cell_type"] == "markdown")


def controls(chapter: Path) -> str:
    """What the explorers of a chapter let one pick, in their own words: "Pick data: digits, glyphs; method: ..."."""
    outputs = (output.get("data", {}) for cell in cells(chapter) for output in cell.get("outputs", []))
    texts = ("".join(data.get("text/plain", "")) for data in outputs)
    return "\n".join(text.partition(" At first")[0] for text in texts if text.startswith("Pick "))


@each_chapter
def test_what_a_chapter_tells_to_pick_can_be_picked_there_or_in_the_chapter_it_links_to(chapter):
    without_links = re.sub(r"\(<?pick:[^)]*\)", "", prose(cells(chapter)))
    for sentence in re.split(r"(?<=[.!?])\s|\n", without_links):
        if re.search(r"\bpick\b", sentence, re.IGNORECASE):
            linked = re.search(r"{doc}`([^`]+)`", sentence)
            there = controls(chapter.parent / f"{linked[1]}.ipynb" if linked else chapter)
            names = re.findall(r"(?<![*`}])(?:\*([^*]+)\*|`([^`]+)`)", sentence)
            assert names, f"names no control: {sentence}"
            for name in map("".join, names):
                assert re.search(rf"(?:Pick |[;,:] ){re.escape(name)}[:;,.]", there, re.IGNORECASE), (name, sentence)


@each_chapter
def test_a_link_that_picks_names_what_is_there(chapter):
    for place, query in re.findall(r"\]\(<?pick:([^?]*)\?([^)>#]+)", prose(cells(chapter))):
        there = controls((chapter.parent / place).with_suffix(".ipynb") if place else chapter)
        for name, option in urllib.parse.parse_qsl(query):
            assert re.search(rf"[ ]{re.escape(name)}: [^;]*(?<=[:,] ){re.escape(option)}[,;.]", there), (name, option)


def sections(chapter: Path) -> list[list[dict]]:
    """The cells of a chapter, from one heading to the next."""
    parts: list[list[dict]] = [[]]
    for cell in cells(chapter):
        if cell["cell_type"] == "markdown" and re.search("^## ", cell["source"], re.MULTILINE):
            parts.append([])
        parts[-1].append(cell)
    return parts


@each_chapter
def test_a_section_that_trains_says_that_it_is_one_seed(chapter):
    for section in sections(chapter):
        if any(cell["cell_type"] == "code" and TRAINS.search(cell["source"]) for cell in section):
            assert "one seed" in prose(section), section[0]["source"]


MEASURED = re.compile(
    r"\d[\d.,]*\W{0,3}(?:%|points?\b)|± ?\d\S*|\d[\d.,]* ?±"
    r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty) points\b",
    re.IGNORECASE,
)
SETTINGS = {
    "report": {"95 %", "90 %", "two points"},
    "ramanujan/real": {"0 %", "95 %", "99 %"},
    "gygli/classes": {"Two points"},
    "gygli/method": {"two points"},
    "gygli/questions": {"100 %"},
    "ramanujan/side": {"100 %"},
}
"""What looks like a result in the prose of a chapter and is none: how wide intervals are, where a scale ends, a margin,
a setting of a run."""


@each_chapter
def test_no_result_is_typed(chapter):
    """What is measured comes from records, by a cell; a number that a paper prints may stand in a sentence."""
    printed = {row["value"] for row in paper_numbers()}
    text = re.sub(r"(?m)^:[^\n]*$|(?s:```.*?```)", "", prose(cells(chapter)).replace("**", ""))
    found = {match[0] for match in MEASURED.finditer(text)}
    typed = {match for match in found if "." not in match or float(re.sub(r"[^\d.]", "", match)) not in printed}
    name = chapter.relative_to(book.ROOT / "book").with_suffix("").as_posix()
    assert typed == SETTINGS.get(name, set())
