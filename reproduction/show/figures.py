"""Pictures that are drawn once, from images that a cell has made. Nothing here trains or needs torch."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from IPython.display import HTML

from .drawings import as_webp


def tiles(rows: Mapping[str, Any], caption: str, alt: str = "") -> HTML:
    """A figure of sample images: a strip of tiles for each row, its name before it, and the caption below.

    Args:
        rows: uint8 images (n, c, h, w) by the name of their row, as a ``Split`` holds them.
        caption: HTML.
        alt: what is to be seen, where the names of the rows do not say it.
    """
    strips = "".join(_strip(name, images, alt) for name, images in rows.items())
    return HTML(f'<figure class="compatkit-tiles">{strips}<figcaption>{caption}</figcaption></figure>')


def _strip(name: str, images: Any, alt: str) -> str:
    pixels = np.asarray(images).transpose(0, 2, 3, 1)
    n, height, width, _ = pixels.shape
    strip = np.zeros((height, n * (width + 1) - 1, 4), np.uint8)  # between the tiles nothing is drawn
    for place, tile in enumerate(pixels):
        strip[:, place * (width + 1) :][:, :width] = np.dstack(
            [np.broadcast_to(tile, (height, width, 3)), strip[:, :width, 3:] + 255]
        )
    words = html.escape(", ".join(filter(None, (name, alt))) or "samples")
    size = f'width="{3 * strip.shape[1]}" height="{3 * height}"'
    return f'<div><span>{name}</span><img src="{as_webp(strip, lossless=True)}" alt="{words}" {size}></div>'
