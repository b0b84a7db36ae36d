"""What the chapter on a real move shows is what its searches found."""

import pytest

from reproduction.pages import move

from .explored import means


def test_words_that_both_find_are_bold():
    found = {"king": {"old/old": ["queen", "ii"], "new/new": ["queen", "throne"]}}
    lines = move.words_found(found).data.splitlines()
    assert lines[2:] == ["| *king* | old/old | **queen**, ii |", "|  | new/new | **queen**, **throne** |"]


def test_curves_are_means_over_queries_beside_the_old_model():
    lines = {"random": {"10 %": [0.2, 0.4], "50 %": [0.5, 0.7]}, "found": {"10 %": [0.3, 0.5], "50 %": [0.8, 1.0]}}
    shown = move.kept_explorer(lines, "order", "embedded anew", [0.4, 0.6])
    assert means(shown)["random", "10 %"] == pytest.approx(30) and means(shown)["found", "50 %"] == pytest.approx(90)
    assert '"name":"old/old"' in shown.spec and '"mean":50' in shown.spec
    assert "neighbours kept, %" in shown.alt
