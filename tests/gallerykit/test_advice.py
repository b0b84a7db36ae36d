"""What is advised."""

import re
from dataclasses import replace

import pytest

from compatkit.intervals import Interval
from gallerykit.advice import recommend
from gallerykit.backfill import SHARES, MixedPlan, Share
from gallerykit.comparison import Candidate, Comparison


def around(mean, half=0.02):
    return Interval(mean, mean - half, mean + half, 100)


def comparison(agreement, mean_ap=None, old=None, same_shape=True, in_gallery=None):
    """Of four maps with these scores, in the order of METHODS; seconds are 1, 2, 3 and 4."""
    candidates = {}
    for i, name in enumerate(("identity", "Procrustes", "ridge", "h")):
        ap = None if mean_ap is None else around(mean_ap[i])
        gain = None if mean_ap is None else around(mean_ap[i] - old)
        scores = around(agreement[i])
        candidates[name] = Candidate(
            name=name,
            agreement=scores,
            in_gallery=None if in_gallery is None else around(in_gallery[i], 0.05),
            recall=scores,
            error=around(0.5),
            **dict.fromkeys(("top1", "reciprocal_rank", "mean_ap"), ap),
            gain=gain,
            lost=around(0.12),
            won=around(0.34),
            macs=1,
            parameters=1,
            seconds=i + 1,
        )
    before = None if old is None else (around(old),) * 3
    size = None if in_gallery is None else 40_000
    found = Comparison(candidates, before, before, (around(0.3),) * 2, 80, 20, same_shape, 4, 0, 4, gallery_size=size)
    return replace(found, mixed=plan(found, old))


def plan(found, old):
    """Back-filling brings the choice to 1 in a straight line."""
    at = found.score(found.choice).mean
    shares = []
    for share in SHARES:
        score = around(at + share * (1 - at))
        in_gallery = None if found.gallery_size is None else around(score.mean - 0.1 * (share < 1), 0.05)
        labelled = old is not None
        shares.append(
            Share(
                share=share,
                agreement=score,
                at_random=score,
                in_gallery=in_gallery,
                mean_ap=score if labelled else None,
                gain=around(score.mean - old) if labelled else None,
            )
        )
    return MixedPlan(found.choice, tuple(shares), 1.0, found.gallery_size)


LOW = comparison([0.1, 0.2, 0.3, 0.42])
HIGH = comparison([0.1, 0.6, 0.7, 0.9])
IN_GALLERY = comparison([0.1, 0.3, 0.5, 0.6], in_gallery=[0.05, 0.2, 0.4, 0.48])
WORSE = comparison([0.9] * 4, [0.1, 0.2, 0.6, 0.7], old=0.81)


@pytest.mark.parametrize(
    ("given", "options", "method", "share", "said"),
    [
        (HIGH, {}, "h", 0, "Use h: it has an .* 90.0 ± 2.0 % .*, and no simpler map"),
        (HIGH, {}, "h", 0, "12.0 ± 2.0 % of the held-out queries find .* no longer would, 34.0 ± 2.0 % the other way"),
        (comparison([0.1, 0.2, 0.3, 0.6]), {}, "h", 0, "With the worst 20 % back-filled .* 68.0 ± 2.0 %"),
        (HIGH, {}, "h", 0, "among the 20 held-out items .fewer in a larger gallery: say --gallery-size"),
        (comparison([0.1, 0.6, 0.87, 0.9]), {}, "ridge", 0, "Use ridge: .*the best, h with 90.0.* is within"),
        (comparison([0.1, 0.87, 0.8, 0.9]), {}, "Procrustes", 0, "Use Procrustes"),
        (comparison([0.95, 0.9, 0.9, 0.9]), {}, None, 0, "Do nothing: .*no other map has more"),
        (comparison([0.9, 0.9, 0.9, 0.93]), {}, None, 0, "Do nothing: .*the best, h"),
        (comparison([0.9, 0.9, 0.9, 0.93], same_shape=False), {}, "identity", 0, "Use identity"),
        (LOW, {}, "h", 0.2, "Back-fill the worst 20 % .* by h: even .*h, .*42.0 ± 2.0 %.*; so mixed, it is 53.6 ± 2.0"),
        (LOW, {"enough": 0.9}, None, 1, "Back-fill: even .*42.0 ± 2.0 % .*; 90 % would"),
        (LOW, {"backfill_seconds": 99}, "h", 0.2, "for 20.6 s in place of 99 s"),
        (LOW, {"backfill_seconds": 2}, None, 1, "Back-fill: it is exact and takes 2 s"),
        (LOW, {"enough": 0.3}, "h", 0, "Use h"),
        (replace(LOW, mixed=None), {}, None, 1, "Back-fill: even the best map, h"),
        (IN_GALLERY, {"enough": 0.4}, "h", 0, "48.0 .43.0 .. 53.0. % in the gallery of 40 000, extrapolated from 60.0"),
        (
            IN_GALLERY,
            {},
            "h",
            0.2,
            "; 50 % would be enough, which lies within .* more pairs .* it is 58.0 .53.0 .. 63.0.",
        ),
        (IN_GALLERY, {"enough": 0.54}, "h", 0.4, "; 54 % would be enough; so mixed, it is 66.0 "),
        (replace(LOW, gallery_size=4), {"enough": 0.1}, "h", 0, "too few to say it of 4"),
        (HIGH, {"backfill_seconds": 400}, "h", 0, "100 times as long"),
        (HIGH, {"backfill_seconds": 3}, None, 1, "Back-fill: it is exact and takes 3 s"),
        (
            comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.6], old=0.5),
            {},
            "ridge",
            0,
            "Use ridge: it has a mAP .* of their class",
        ),
        (WORSE, {}, "h", 0.6, "the worst 60 % .* old/old has 81.0 ± 2.0 % without any; so mixed, it is 88.0 ± 2.0 %"),
        (replace(WORSE, mixed=None), {}, None, 1, "Back-fill, or keep the old model"),
        (comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.79], old=0.8), {}, "h", 0, "Use h"),
    ],
)
def test_advice_follows_the_rule(given, options, method, share, said):
    found = recommend(given, **options)
    assert (found.method, found.share) == (method, share)
    assert re.search(said, found.text), found.text


def test_the_tables_are_aligned():
    """What is found, and below it what it costs."""
    for given in (comparison([0.1, 0.6, 0.7, 0.9]), comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.6], old=0.5)):
        header, *lines, last = given.table().splitlines()
        assert ("mAP" in header) == (given.old is not None) == any(line.startswith("new/new") for line in lines)
        assert lines[0].startswith("old/old") and lines[0].count("30.0 ± 2.0") == 2
        cost = next(i for i, line in enumerate(lines) if "MACs" in line)
        for rows in (lines[:cost], lines[cost + 1 :]):
            maps = [line for line in rows if line.startswith("new/") and "new/new" not in line]
            assert len(maps) == 4 and len({len(line) for line in maps}) == 1
        assert last.startswith("Fitted on 80 pairs, compared on 20 others")


def test_the_table_of_a_mixed_plan():
    title, header, *lines = IN_GALLERY.mixed.table(99).splitlines()
    assert title == "The worst part back-filled, the rest by h:"
    assert "in 40 000, %" in header and "mAP" not in header and header.endswith("s / 10 000")
    assert lines[3].split() == ["20", *["68.0", "±", "2.0"] * 2, "58.0", "(53.0", "..", "63.0)", "20.6"]
    assert "mAP" in WORSE.mixed.table() and "s / 10 000" not in WORSE.mixed.table()
