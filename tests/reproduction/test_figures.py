"""Figures that are drawn once show their numbers and no others."""

import base64
import io
import re

import numpy as np
from PIL import Image

from reproduction.show import figures


def test_tiles_are_the_images_side_by_side():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5), np.uint8)
    text = figures.tiles({"digits <i>a</i>": images, "same": images.repeat(3, 1)}, caption="Some.").data
    assert text.count("<figure") == 1 and "<figcaption>Some.</figcaption>" in text and 'alt="same"' in text
    for source in re.findall('base64,([^"]+)', text):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
        assert strip.shape == (4, 17, 4)
        for place in range(3):
            assert (strip[:, 6 * place : 6 * place + 5, :3] == images[place, 0, :, :, None]).all()
        assert not strip[:, 5, 3].any(), "between them nothing is drawn"
