"""Programs that a reader tries: in the page plain scripts from a disk, in a live notebook the same ones as a widget.

    programs.program("train")

Scripts and style are in ``reproduction/site``; what they load is written by ``python -m reproduction export``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

SITE = Path(__file__).parents[1] / "site"
EXPORTED = Path(__file__).parents[2] / "book" / "_static" / "exported"
"""Where the pages find what readers try in them, see ``runs.export``."""

STYLE = "programs.css"
SCRIPTS = {
    "draw": ("exported.js", "elements.js", "networks.js", "pad.js", "draw.js"),
    "train": ("exported.js", "elements.js", "networks.js", "pad.js", "training.js", "train.js"),
    "seam": ("exported.js", "elements.js", "networks.js", "pad.js", "seam.js"),
    "carry": ("exported.js", "elements.js", "ridge.js", "carry.js"),
    "search": ("exported.js", "elements.js", "search.js"),
}
"""What each program needs, in order."""

_SENTENCES = {
    "draw": "Draw a digit, and four networks say what it is: two as they were trained, two put together from their "
    "parts.",
    "train": "Two small networks learn two sets of digits while you watch, and their heads are swapped all along. "
    "Trained apart, the swapped ones stay near chance; with the same start and a shared class head they come close to "
    "the rest.",
    "seam": "Feature maps of extractor a on the left, of extractor b on the right, and a line from each channel to the "
    "one that it is most like. The lines cross; sorted, they run straight, and head b understands extractor a better.",
    "carry": "A gallery of 300 pictures, embedded by an old model, is carried into the space of a new one. Where the "
    "old vectors lie they mean nothing there; a map brings them near to where embedding anew would, if what the old "
    "model left out was stored beside.",
    "search": "Pick an image, and see what it finds before and after an update of the model.",
}
"""What a reader sees of each where scripts are off, beside a picture."""


class Program(anywidget.AnyWidget):
    """A program that a reader tries.

    Live it is a widget, in the page an element that the page's scripts fill.

    Attributes:
        name: A key of ``SCRIPTS``.
        options: What it begins with, by the names of the element's data attributes.
        trained: Of "train", once a run has ended: its setting, accuracies (aa, ab, ba, bb) and the weights of both
            networks. ``runs.export.digits.networks`` makes networks of torch of it, and ``replaced`` puts others in
            their place, with which the program goes on once they are assigned.
    """

    _esm = "\n".join(
        (SITE / script).read_text(encoding="utf-8")
        for script in dict.fromkeys([script for scripts in SCRIPTS.values() for script in scripts] + ["widget.js"])
    )
    _css = SITE / STYLE
    name = traitlets.Unicode().tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    trained = traitlets.Dict().tag(sync=True)

    def __init__(self, name: str, options: Mapping[str, str]) -> None:
        super().__init__(name=name, options=dict(options))
        self.on_msg(lambda _, file, __: self.send({"file": file, "text": _exported(file)}))

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**options)
        chosen = "".join(f' data-{key}="{html.escape(value)}"' for key, value in self.options.items())
        sentence = _SENTENCES[self.name]
        still = f'<div class="still" role="img" aria-label="a picture of it"></div><p>{sentence}</p>'
        element = f'<div class="compatkit-program compatkit-{self.name}"{chosen}>{still}</div>'
        return {**data, "text/html": element, "text/plain": sentence}, metadata


def program(name: str, **options: str) -> Program:
    """A program by its name.

    Args:
        name: "draw" (``method``, ``split``), "train", "seam", "carry" or "search" (``set``).
        options: What it begins with.

    Raises:
        ValueError: There is no such program.
    """
    if name not in SCRIPTS:
        raise ValueError(f"name: must be one of {', '.join(SCRIPTS)}, got {name!r}")
    return Program(name, options)


def _exported(file: str) -> str:
    """What a page would load from its own folder."""
    return (EXPORTED / Path(file).name).read_text(encoding="utf-8")
