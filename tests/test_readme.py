"""What the README says is so: its snippets run, and its totals are those of the report."""

import re
from pathlib import Path

import pytest

from reproduction.experiments import evidence
from reproduction.pages import report
from reproduction.records.verdicts import VERDICTS, totals

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.training
def test_every_snippet_runs_as_it_stands(capsys):
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    known: dict = {}
    for snippet in snippets:
        exec(snippet, known)
    printed = capsys.readouterr().out
    assert len(snippets) == 3 and "CKA after stage 2: " in printed and "CMC@1 " in printed


def test_the_totals_are_those_of_the_report():
    counts = totals(report.report(evidence.sources()), "finding").words
    words = [word for word in VERDICTS if counts[word]]
    *first, last = [f"{counts[word]}{' are' * (word == words[0])} {word}" for word in words]
    said = f"Of {sum(counts.values())} claims of both papers {', '.join(first)} and {last}: small networks"
    assert said in " ".join(README.split())


def test_hours_are_those_of_the_records():
    sources = {source.name: source.records for source in evidence.sources()}
    for names, preset in ((list(sources["laptop"]), "laptop"), (["table1"], "cifar-cpu")):
        runs = {r["run_id"]: r["provenance"] for name in names for r in sources[preset][name]}
        hours = sum(made["wall_seconds"] * made["threads"] for made in runs.values()) / 3600
        named = "all" if len(names) > 1 else names[0]
        said = re.search(rf"run {named} --preset {preset} .*?(\d+) hours of one core", README)
        assert said and int(said[1]) == round(hours), (named, hours)


def test_files_and_commands_that_it_names_are_there():
    root = Path(__file__).parents[1]
    named = set(re.findall(r"`((?:book|results)/[\w./-]+\.\w+)`|\((book/[^)]+)\)", README))
    assert named and all((root / (one or other)).exists() for one, other in named)
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"^make (\w+)", README, re.M))
