"""The page of the tool: its examples run against the real stores, and each need is answered as the table says."""

import re
import shlex
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import psycopg
import pytest
import torch

from gallerykit.__main__ import main
from gallerykit.arrow_store import NewTable
from gallerykit.carry import carry
from gallerykit.maps import Pairs, fit

from .world import IDS, ROOT, ROWS, latent, new_model, noisy, old_model, pairs, table

PAGE = (ROOT / "book" / "reference" / "gallerykit.md").read_text(encoding="utf-8")
NEEDS = re.findall(r"^\| (.*) \| `gallerykit (.*?)` \| .*?\*(.*?)\*.* \|$", PAGE, re.M)
Z = latent(ROWS, 4)


def test_the_examples_run(world, monkeypatch):
    with psycopg.connect(world.database.replace("gallery", "postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop")
        connection.execute("CREATE DATABASE shop")
    monkeypatch.setenv("PGHOST", dict(parse_qsl(urlsplit(world.database).query))["host"])
    monkeypatch.setenv("PGUSER", "postgres")
    names, ran = {}, []
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            exec(block, names)
        else:
            assert main(shlex.split(block)[1:]) == 0
        ran.append(language)
    assert ran == [*["python", "sh", "python"] * 5, "sh", "sh", "python", "python", "python"]


@pytest.fixture
def files(world, monkeypatch):
    """What the commands of the table name; one run has died."""
    world.put("parquet", "items", table())
    world.put("lance", "items", table())
    (world.folder / "lance").rename("db")
    world.put("parquet", "new", table(new_model(Z[:200]), IDS[:200]))
    np.save("others_old.npy", old_model(latent(300, 8)))
    np.save("others_new.npy", new_model(latent(300, 8)))
    known, generator = noisy(1_500, noise=1.5, width=64), torch.Generator().manual_seed(0)
    turns = torch.randn(6, 64, 64, generator=generator) / 8  # one for each class: no map of all does it
    np.save("old.npy", known.old)
    np.save("candidate.npy", torch.einsum("ni,nij->nj", known.old, turns[known.labels]))
    mixed = old_model(Z) + 3
    world.put("parquet", "mapped", table(mixed))
    mixed[52:] -= 3
    world.put("parquet", "mixed", table(mixed))
    old = pairs().old
    fit(Pairs(old, old + 3), ["ridge"])["new/ridge"].save("same_width.safetensors")
    ridge = fit(pairs(), ["ridge"])["new/ridge"]
    ridge.save("new.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(NewTable, "publish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            carry(ridge, "items.parquet", "made.parquet")


@pytest.mark.parametrize(("need", "typed", "answer"), NEEDS, ids=[need[1:40] for need, *_ in NEEDS])
def test_each_need_is_answered(files, capsys, need, typed, answer):
    main(shlex.split(typed))
    said = capsys.readouterr()
    assert answer in said.out + said.err, said


def test_there_are_twelve_needs():
    assert len(NEEDS) == 12
