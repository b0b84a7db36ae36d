"""Images drawn from a seed: glyphs in two styles and coloured shapes, all images of a set at once, in tensors.

Random numbers are drawn in single precision and everything after that is computed in double, so that CPUs of different
kinds round to the same pixels.

The glyphs have an upright orientation that can be told only by knowing the character, so that predicting rotation needs
the features of the target task (Gygli et al., App. A). The shapes have a colour and a form, so that an old task may
need one and a new task both (Ramanujan et al., Fig. 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from compatkit.extras import require

SUPERSAMPLING = 2  # drawn at twice the size and averaged down, for smooth edges


@dataclass(frozen=True)
class GlyphStyle:
    """The style of a set of glyphs. ``clutter`` is the number of lines behind and before a glyph, ``noise`` in 0..1."""

    characters: str
    fonts: tuple[str, ...]  # files of matplotlib's font folder
    clutter: int
    noise: float
    jitter: float  # of position and size, as a share of the image


# No character looks like another one, or like itself, after a quarter or a half turn. Nine are in both styles.
PLAIN = GlyphStyle("2457AFGJRe", ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"), clutter=0, noise=0.02, jitter=0.06)
CLUTTERED = GlyphStyle(
    "247AFGJPRe",
    ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    clutter=1,
    noise=0.04,
    jitter=0.06,
)
# Of other characters and fonts: something to learn rotation from before the two above.
OTHER = GlyphStyle("3BDKLQYaht", ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"), clutter=1, noise=0.03, jitter=0.06)


def draw_glyphs(style: GlyphStyle, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) as uint8 and labels (n,): which of ``style.characters`` each shows."""
    stencils = _stencils(style)  # (characters, fonts, s, s)
    character = torch.arange(n) % stencils.shape[0]
    font = torch.randint(stencils.shape[1], (n,), generator=generator)
    side = size * SUPERSAMPLING
    grid = _jittered_grid(n, side, style.jitter, generator)
    ink = F.grid_sample(stencils[character, font][:, None], grid, align_corners=False)

    paper, pen = _contrasting_colours(n, generator)
    canvas = paper.expand(n, 3, side, side)
    for before in (False, True):
        if before:
            canvas = torch.lerp(canvas, pen, ink)
        for _ in range(style.clutter):
            colour = _uniform(n, 3, 1, 1, generator=generator)
            canvas = torch.lerp(canvas, colour, _line(n, side, generator) * (0.5 if before else 0.9))
    return _develop(canvas, style.noise, generator), character


def draw_shapes(colours: int, shapes: int, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) as uint8 and labels (n,) = colour * shapes + shape, on dark, noisy ground.

    Colours are evenly spaced hues. Shape k is a polygon, a star or a flower (k % 3) with 3 + k // 3 corners, drawn at
    a random place, size and angle, so that neither number has an upper end.
    """
    label = torch.arange(n) % (colours * shapes)
    colour, shape = label // shapes, label % shapes
    side = size * SUPERSAMPLING
    place = 0.35 * (_uniform(2, n, 1, 1, generator=generator) - 0.5)
    turn = 2 * math.pi * _uniform(n, 1, 1, generator=generator)
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = axis.view(1, -1, 1) - place[0], axis.view(1, 1, -1) - place[1]
    radius = 0.6 + 0.2 * _uniform(n, 1, 1, generator=generator)
    edge = radius * _outline(torch.atan2(y, x) + turn, shape.view(n, 1, 1))
    ink = ((edge - torch.hypot(x, y)) * side / 4).sigmoid()[:, None]

    hue = (colour + 0.3 * (_uniform(n, generator=generator) - 0.5)) / colours
    light = 0.75 + 0.25 * _uniform(n, 1, 1, 1, generator=generator)
    ground = 0.25 * _uniform(n, 1, 1, 1, generator=generator)
    canvas = torch.lerp(ground.expand(n, 3, side, side), _rgb(hue) * light, ink)
    return _develop(canvas, 0.03, generator), label


def shape_names(colours: int, shapes: int) -> tuple[str, ...]:
    """The class names of ``draw_shapes``: the hue in degrees, the form, the number of its corners."""
    forms = ("polygon", "star", "flower")
    return tuple(
        f"hue{round(360 * c / colours):03d} {forms[k % 3]}{3 + k // 3}" for c in range(colours) for k in range(shapes)
    )


def _stencils(style: GlyphStyle, side: int = 64) -> Tensor:
    """Every character in every font, white on black, centred, in 0..1 (characters, fonts, side, side)."""
    Image, ImageDraw, ImageFont = (require(f"PIL.{name}", "data") for name in ("Image", "ImageDraw", "ImageFont"))
    matplotlib = require("matplotlib", "data")
    import numpy as np

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / file), round(side * 0.8)) for file in style.fonts]
    stencils = torch.zeros(len(style.characters), len(fonts), side, side, dtype=torch.float64)
    for i, character in enumerate(style.characters):
        for j, font in enumerate(fonts):
            image = Image.new("L", (side, side))
            ImageDraw.Draw(image).text((side / 2, side / 2), character, fill=255, font=font, anchor="mm")
            stencils[i, j] = torch.from_numpy(np.array(image)) / 255
    return stencils


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator).double()


def _jittered_grid(n: int, side: int, jitter: float, generator: torch.Generator) -> Tensor:
    """Sampling grids (n, side, side, 2) that shift, scale and slightly turn (up to 10 degrees) what they sample."""
    draw = 2 * _uniform(4, n, generator=generator) - 1
    angle, scale = draw[0] * math.radians(10), 0.95 + jitter * draw[1]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([cos, -sin, 2 * jitter * draw[2], sin, cos, 2 * jitter * draw[3]], 1).view(n, 2, 3)
    return F.affine_grid(theta, [n, 1, side, side], align_corners=False)


def _contrasting_colours(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random colours (n, 3, 1, 1) for each image, one light and one dark, in either role."""
    draw = _uniform(2, n, 3, 1, 1, generator=generator)
    dark, light = 0.45 * draw[0], 0.55 + 0.45 * draw[1]
    swap = _uniform(n, 1, 1, 1, generator=generator) < 0.5
    return torch.where(swap, dark, light), torch.where(swap, light, dark)


def _line(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Opacity (n, 1, side, side) of one straight line across each image, about half an output pixel wide."""
    angle = math.pi * _uniform(n, 1, 1, generator=generator)
    offset = 1.2 * _uniform(n, 1, 1, generator=generator) - 0.6
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    distance = (axis.view(1, -1, 1) * angle.sin() + axis.view(1, 1, -1) * angle.cos() - offset).abs()
    return (1.5 - distance * side / 2).clamp(0, 1)[:, None]


def _outline(angle: Tensor, shape: Tensor) -> Tensor:
    """Distance from the centre to the edge of each shape in each direction, at most 1."""
    corners = 3 + shape // 3
    phase = torch.remainder(angle, 2 * math.pi / corners) * corners / (2 * math.pi)  # 0..1 from corner to corner
    to_corner = (2 * phase - 1).abs()  # 1 at a corner, 0 half-way between two
    half = math.pi / corners
    polygon = half.cos() / ((1 - to_corner) * half).cos()
    star = 0.38 / (1 - 0.62 * to_corner)
    flower = 0.62 + 0.38 * (2 * math.pi * phase).cos()
    return torch.where(shape % 3 == 0, polygon, torch.where(shape % 3 == 1, star, flower))


def _rgb(hue: Tensor) -> Tensor:
    """Fully saturated colours (n, 3, 1, 1) of hues (n,) in turns."""
    offset = torch.tensor([0.0, 2 / 3, 1 / 3], dtype=torch.float64)
    distance = (torch.remainder(hue[:, None] + offset + 0.5, 1) - 0.5).abs()
    return (2 - 6 * distance).clamp(0, 1)[:, :, None, None]


def _develop(canvas: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Average down to the final size, add Gaussian noise, round to uint8."""
    image = F.avg_pool2d(canvas, SUPERSAMPLING)
    image = image + noise * torch.randn(image.shape, generator=generator).double()
    return image.mul(255).round().clamp(0, 255).to(torch.uint8)
