"""The README's picture is of the landing page, and shows what its description says."""

from __future__ import annotations

import re

from PIL import Image

from reproduction import book, picture

from .browser import answers, needs_browser


@needs_browser
def test_the_picture_is_taken_from_the_landing_page(html, tmp_path):
    picture.take(html / "book" / "index.html", tmp_path / "hero.png")
    taken = Image.open(tmp_path / "hero.png").convert("RGB")
    width, height = taken.size
    assert width > 900 and height > width
    tops = [taken.crop((0, top, width, top + height // 3)) for top in (0, height - (height - 10) // 2)]
    assert tops[0].tobytes() != tops[1].tobytes(), "two methods"


@needs_browser
def test_the_readme_says_what_is_to_be_seen(html, chromium):
    said = re.search(
        r"!\[A drawn (\d),.* say (\d) and (\d)\..* all four say (\d)", (book.ROOT / "README.md").read_text()
    )
    chromium.get((html / "book" / "index.html").as_uri())
    shown = [picture.shot(chromium, method) and answers(chromium) for method in picture.METHODS]
    digit, first, second, all_four = said.groups()
    assert shown == [[digit, first, second, digit], [all_four] * 4]


def test_without_a_browser_the_picture_is_left_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(picture, "DRIVER", None)
    picture.take(tmp_path / "index.html", tmp_path / "hero.png")
    assert not (tmp_path / "hero.png").exists()
    assert capsys.readouterr().out.startswith("hero.png is left as it was: Chromium and chromedriver are needed")
