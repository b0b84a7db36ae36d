"""A stranger opens the pages: on a phone, from a disk, with a screen reader, at night. Weight, links, words, access."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from reproduction import book

from .browser import console_errors, needs_browser, needs_scripts, open_page, pages, requests, resize

AXE = book.ROOT / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="NO PAGE WAS EXAMINED: install npm and run `npm ci`")

PAGES = [
    *pages(),
    *sorted(f"book/reference/{path.stem}.html" for path in (book.ROOT / "book" / "reference").glob("*.md")),
    *("py-modindex.html", "search.html"),
]
WIDTHS = (375, 768, 1280)
EXAMINED = (375, 1280)
MEGABYTE = 1_000_000


def test_the_book_builds_strictly_and_no_page_names_a_folder_breaks_an_interval_or_explains_a_heading(html):
    for page in ("index.html", *pages()):
        text = (html / page).read_text(encoding="utf-8")
        assert str(book.ROOT) not in text, page
        assert not re.search(r"\d ± [\d.]+</|<h[1-6]\b.*<abbr", text), page


# --- weight -----------------------------------------------------------------------------------------------------------


def test_no_page_is_heavy(html):
    sizes = {page.relative_to(html).as_posix(): page.stat().st_size for page in html.rglob("*.html")}
    assert sizes.keys() >= set(PAGES)
    assert {page: size for page, size in sizes.items() if size > 0.4 * MEGABYTE} == {}


@needs_scripts
def test_the_book_fits_a_small_disk(html):
    assert sum(path.stat().st_size for path in html.rglob("*") if path.is_file()) < 15 * MEGABYTE


@needs_browser
@needs_scripts
def test_the_first_chapter_loads_quickly(chromium, address, html):
    open_page(chromium, f"{address}book/gygli/method.html", "phone")
    chromium.execute_async_script("document.fonts.ready.then(() => setTimeout(arguments[0], 1000))")
    paths = {unquote(urlsplit(url).path).lstrip("/") for url in requests(chromium) if url.startswith(address)}
    weights = {path: len(gzip.compress((html / path).read_bytes(), 6)) for path in paths}
    assert any("plotly" in path for path in paths) and any("MathJax" in path for path in paths)
    assert sum(weights.values()) < 3 * MEGABYTE, weights


# --- links and words --------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """What a page links to and loads, and the places in it that a link can name."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        self.links |= {found[name] for name in ("href", "src") if found.get(name)}


def test_every_link_leads_somewhere(html):
    parsed = {path: _Page(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    outside, broken = set(), []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.is_file() or (place and target in parsed and place not in parsed[target].places):
                broken.append((path.relative_to(html).as_posix(), link))
    assert broken == []
    assert {urlsplit(link).scheme for link in outside} <= {"https", "http", "mailto", "data"}
    print(*sorted(outside), sep="\n")  # no test asks the network


def test_words_are_spelt_right():
    """In what people read, notebooks without their outputs."""
    texts = [path.read_text(encoding="utf-8") for kind in ("md", "py") for path in _written(kind)]
    texts += [cell.source for path in _written("ipynb") for cell in nbformat.read(path, 4).cells]
    checked = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"], input="\n".join(texts), capture_output=True, text=True
    )
    assert len(texts) > 300 and (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def _written(kind: str) -> list[Path]:
    folders = ("book", "compatkit", "gallerykit", "reproduction", "benchmarks")
    return [
        *book.ROOT.glob(f"*.{kind}"),
        *(path for f in folders for path in sorted((book.ROOT / f).rglob(f"*.{kind}"))),
    ]


# --- access -----------------------------------------------------------------------------------------------------------

# preload: it would fetch the style sheets, which a page from a disk may not
EXAMINE = """
    const [theme, done] = arguments;
    const rules = theme === "dark" ? {runOnly: ["color-contrast", "link-in-text-block"]} : {};
    axe.run({preload: false, resultTypes: ["violations"], ...rules}).then(({violations}) => done(
        violations.filter(({impact}) => ["serious", "critical"].includes(impact))
            .flatMap(({id, nodes}) => nodes.map((node) => `${id}: ${node.target.join(" ")}`))));
"""
AT_ONCE = """
    const style = document.createElement("style");
    style.textContent = "* { transition: none !important }";
    document.head.append(style);
"""
WEAR = """
    Object.assign(document.documentElement.dataset, {theme: arguments[0], mode: arguments[0]});
    return [document.documentElement.scrollWidth, window.innerWidth];
"""
CUT = """
    return [...document.querySelectorAll(".bd-article table")]
        .filter((table) => {
            const around = table.parentElement;
            const scrolls = getComputedStyle(around).overflowX === "auto";
            const room = scrolls ? table.clientWidth : Math.min(table.clientWidth, around.clientWidth);
            return table.scrollWidth > room + 1;
        })
        .map((table) => table.textContent.slice(0, 80));
"""


@needs_browser
@needs_scripts
@needs_axe
@pytest.mark.parametrize("page", PAGES)
def test_everybody_can_read_the_page(page, chromium, html):
    open_page(chromium, (html / page).as_uri(), "phone")
    chromium.execute_script(AXE.read_text(encoding="utf-8"))
    chromium.execute_script(AT_ONCE)
    for width in WIDTHS:
        resize(chromium, width, 900)
        for theme in ("light", "dark"):
            wide, inner = chromium.execute_script(WEAR, theme)
            assert wide <= inner == width, (width, theme)
            assert chromium.execute_script(CUT) == [], (width, theme)
            if width in EXAMINED:
                assert chromium.execute_async_script(EXAMINE, theme) == [], (width, theme)
    assert console_errors(chromium) == []
    assert [url for url in requests(chromium) if not url.startswith(("file:", "data:", "blob:", "chrome"))] == []
