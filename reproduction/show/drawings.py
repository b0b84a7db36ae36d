"""Drawings that stand alone, in the colours of the page and readable on a phone: strips of tiles, bars to scale, and
the diagrams in ``drawings/``. No script draws them: they are in print and in a live notebook as well."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML

from .looks import look

MARKS = {"query": "", "right": "✓", "wrong": "✕", "": ""}
"""How a tile is framed, and the sign below it."""


def _figure(body: str, caption: str) -> HTML:
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return HTML(
        f'<figure class="compatkit-drawing"><style>{style}</style>{body}<figcaption>{caption}</figcaption></figure>'
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A picture in a strip: uint8 (c, h, w) as a ``Split`` holds it, how it is framed (a key of ``MARKS``), and what
    stands below it in place of the sign."""

    pixels: Any
    mark: str = ""
    note: str = ""


def found(queries: Any, items: Any, right: Sequence[bool]) -> list[Tile]:
    """A strip of what a search finds: the query, and the items in the order in which they are found."""
    marks = ["right" if hit else "wrong" for hit in right]
    return [Tile(queries, "query", "query"), *(Tile(item, mark) for item, mark in zip(items, marks, strict=True))]


def strips(rows: Mapping[str, Sequence[Tile]], caption: str) -> HTML:
    """A figure of strips of tiles, each with its name before it; the caption is HTML."""
    return _figure("".join(_strip(name, tiles) for name, tiles in rows.items()), caption)


def _strip(name: str, tiles: Sequence[Tile]) -> str:
    said = html.escape(f"{name}: {', '.join(tile.mark for tile in tiles if tile.mark)}" if tiles[0].mark else name)
    cells = "".join(
        f'<span class="tile {tile.mark}"><i style="background-image:url({_source(tile.pixels)})"></i>'
        f"{tile.note or MARKS[tile.mark]}</span>"
        for tile in tiles
    )
    return f'<div class="strip"><b>{name}</b><div class="tiles" role="img" aria-label="{said}">{cells}</div></div>'


def sheets(panels: Mapping[str, Any], caption: str, alt: str) -> HTML:
    """A figure of sheets of pictures, uint8 (rows, columns, c, h, w) by their titles; the caption is HTML."""
    parts = []
    for title, pictures in panels.items():
        rows, columns, channels, height, width = np.shape(pictures)
        pixels = np.asarray(pictures).transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
        name = html.escape(f"{title}: {alt}")
        sheet = (
            f'<div class="sheet" role="img" aria-label="{name}" style="background-image:url({_source(pixels)})"></div>'
        )
        parts.append(f'<div><p class="panel-title">{title}</p>{sheet}</div>')
    return _figure(f'<div class="panels">{"".join(parts)}</div>', caption)


def as_webp(pixels: Any, **how: Any) -> str:
    """A picture, uint8 (h, w, c), as a data URL; ``how``: options of Pillow's writer."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "WEBP", method=6, **how)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _source(pixels: Any) -> str:
    """A picture as a ``Split`` holds it, uint8 (c, h, w)."""
    shown = np.asarray(pixels).transpose(1, 2, 0)
    return as_webp(shown if shown.shape[2] == 3 else shown[..., 0], quality=80)


# --- bars and diagrams ------------------------------------------------------------------------------------------------


def bars(panels: Mapping[str, Mapping[str, tuple[float, str]]], caption: str, whole: float | None = None) -> HTML:
    """A figure of bars to scale: the length of each, and how its number is said. A bar of length ``whole`` takes the
    full width; without it the longest of each panel does."""
    parts = []
    for title, rows in panels.items():
        most = whole or max(value for value, _ in rows.values())
        lines = ""
        for name, (value, said) in rows.items():
            style = f"width:{100 * value / most:.3f}%;--of:{look(name, 0).colour}"
            lines += f'<p>{name}: <b>{said}</b><i class="bar" style="{style}"></i></p>'
        parts.append(f'<div><p class="panel-title">{title}</p>{lines}</div>')
    return _figure(f'<div class="panels">{"".join(parts)}</div>', caption)


@functools.cache
def _diagram(name: str) -> str:
    return Path(__file__).with_name("drawings").joinpath(f"{name}.html").read_text(encoding="utf-8")


def diagram(name: str, caption: str, **values: str) -> HTML:
    """A diagram of ``drawings/``, with values in the places that it names; the caption is HTML."""
    return _figure(_diagram(name).format(**values), caption)
