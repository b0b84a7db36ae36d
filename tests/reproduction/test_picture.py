"""Pictures of programs, and the README's, which shows what its description says."""

from __future__ import annotations

import re

from reproduction import book, picture

from .browser import answers, needs_browser


@needs_browser
def test_the_readme_says_what_is_to_be_seen(chromium, bare):
    readme = (book.ROOT / "README.md").read_text()
    said = re.search(r"!\[A drawn (\d),.* say (\d) and (\d)\..* all four say (\d)", readme)
    pictures, shown = [], []
    for method in picture.METHODS:
        pictures.append(picture.used(chromium, bare["draw"], 1000, method))
        shown.append(answers(chromium))
    digit, first, second, all_four = said.groups()
    assert shown == [[digit, first, second, digit], [all_four] * 4]
    assert pictures[0].size == pictures[1].size and pictures[0].tobytes() != pictures[1].tobytes(), "two methods"
    assert pictures[0].width > 900 > pictures[0].height


def test_without_a_browser_pictures_are_left_as_they_were(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(picture, "DRIVER", None)
    picture.take(tmp_path)
    assert not list(tmp_path.iterdir())
    assert "left as they were: Chromium and chromedriver are needed" in capsys.readouterr().out
