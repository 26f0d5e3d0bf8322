"""Letters and figures drawn with strokes, in lines of text."""

import math
from functools import lru_cache

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    Shape,
    angles,
    chance,
    each,
    integers,
    log_uniform,
    uniform,
)
from nfphasing_bluesky.physics.objects.stamps import coverage, paint, segment_distance

# strokes on a grid of 5 columns by 7 rows, each point a digit for the column and one for the row from the top
_GLYPHS = {
    "A": "06 02 20 42 46|04 44",
    "B": "00 06 36 45 44 33 03|33 42 41 30 00",
    "C": "41 30 10 01 05 16 36 45",
    "D": "00 06 26 44 42 20 00",
    "E": "40 00 06 46|03 33",
    "F": "40 00 06|03 33",
    "G": "41 30 10 01 05 16 36 45 43 23",
    "H": "00 06|40 46|03 43",
    "J": "40 45 36 16 05",
    "K": "00 06|40 03 46",
    "L": "00 06 46",
    "M": "06 00 23 40 46",
    "N": "06 00 46 40",
    "P": "06 00 30 41 42 33 03",
    "Q": "10 30 41 45 36 16 05 01 10|24 46",
    "R": "06 00 30 41 42 33 03|23 46",
    "S": "41 30 10 01 02 13 33 44 45 36 16 05",
    "T": "00 40|20 26",
    "U": "00 05 16 36 45 40",
    "V": "00 26 40",
    "W": "00 16 23 36 40",
    "X": "00 46|40 06",
    "Y": "00 23 40|23 26",
    "Z": "00 40 06 46",
    "0": "10 30 41 45 36 16 05 01 10|41 05",
    "1": "11 20 26|16 36",
    "2": "01 10 30 41 42 06 46",
    "3": "00 40 23 33 44 45 36 16 05",
    "4": "30 04 44|30 36",
    "5": "40 00 03 33 44 45 36 16 05",
    "6": "30 10 01 05 16 36 45 44 33 13 04",
    "7": "00 40 16",
    "8": "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
    "9": "16 36 45 41 30 10 01 02 13 33 42",
    "+": "23 23|03 43|21 25",
    "-": "03 43",
    "/": "06 40",
}
_WIDTH, _ADVANCE, _LINE = 4.0, 6.0, 9.0
_SMALLEST = 9.0


@lru_cache(maxsize=4)
def glyph_strokes(device: torch.device) -> tuple[Tensor, Tensor]:
    """Ends (S, 2, 2) as (row, column) of all strokes, one unit a grid step, and their glyphs (S,)."""
    ends, glyph = [], []
    for number, lines in enumerate(_GLYPHS.values()):
        for line in lines.split("|"):
            points = [(int(point[1]) - 3.0, int(point[0]) - _WIDTH / 2) for point in line.split()]
            ends += list(zip(points, points[1:], strict=False))
            glyph += [number] * (len(points) - 1)
    return torch.tensor(ends, device=device), torch.tensor(glyph, device=device)


def letters(n: int, shape: Shape, generator: Generator) -> Tensor:
    """A sign, a word, some lines or a page of random text, in letters of 9 px up to the frame in height."""
    device, size = generator.device, min(shape)
    lines, places = 2 * integers(generator, (n,), 0, 2) + 1, 2 * integers(generator, (n,), 0, 4) + 1
    span = torch.maximum(lines * _LINE, places * _ADVANCE)
    unit = (size * uniform(generator, (n,), 0.4, 1.1) / span).clamp(min=_SMALLEST / 7)
    page = chance(generator, (n,), 0.35)
    unit = torch.where(page, log_uniform(generator, (n,), _SMALLEST / 7, size / 15), unit)
    owner, cell = _written(torch.where(page, 1e6, lines / 2), torch.where(page, 1e6, places / 2), unit, shape)
    blank = chance(generator, (len(owner),), 0.1) & (cell != 0).any(1)
    owner, cell = owner[~blank], cell[~blank]
    glyph = torch.randint(len(_GLYPHS), (len(owner),), generator=generator, device=device)
    strokes, of = glyph_strokes(device)
    letter, stroke = (glyph[:, None] == of).nonzero(as_tuple=True)
    who = owner[letter]
    grid = strokes[stroke] + cell[letter, None] * torch.tensor([_LINE, _ADVANCE], device=device)
    angle = uniform(generator, (n,), -0.15, 0.15) + torch.pi / 2 * integers(generator, (n,), 0, 3)
    angle = torch.where(chance(generator, (n,), 0.5), angle, angles(generator, (n,)))
    cos, sin = angle.cos()[who, None], angle.sin()[who, None]
    rows, columns = grid.unbind(-1)
    turned = torch.stack([rows * cos + columns * sin, columns * cos - rows * sin], -1)
    middle = torch.tensor([(s - 1) / 2 for s in shape], device=device)
    shift = uniform(generator, (n, 1, 2), -0.1, 0.1)[who] * size
    pen = (unit * uniform(generator, (n,), 0.3, 0.75)).clamp(min=0.8)[who]
    return _draw(turned * unit[who, None, None] + middle + shift, who, pen, n, shape)


def _written(lines: Tensor, places: Tensor, unit: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Owners (L,) and cells (L, 2) of the letters: within half counts of lines and places, and the frame."""
    reach = 0.6 * math.hypot(*shape) / float(unit.min())
    down, right = math.ceil(reach / _LINE), math.ceil(reach / _ADVANCE)
    rows, columns = (torch.arange(-k, k + 1, device=unit.device) for k in (down, right))
    cell = torch.cartesian_prod(rows, columns)
    near = (cell * torch.tensor([_LINE, _ADVANCE], device=unit.device)).norm(dim=1) * unit[:, None]
    text = (cell[:, 0].abs() < lines[:, None]) & (cell[:, 1].abs() < places[:, None])
    owner, which = (text & (near < 0.7 * math.hypot(*shape))).nonzero(as_tuple=True)
    return owner, cell[which]


def _draw(ends: Tensor, owner: Tensor, pen: Tensor, n: int, shape: Shape) -> Tensor:
    """Strokes of half widths `pen` (M,), px, with round ends, as maps (n, H, W)."""
    step = (ends[:, 1] - ends[:, 0]) / 2
    half = step.norm(dim=1)
    along = step / half.clamp(min=1e-6)[:, None]

    def ink(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        return coverage(segment_distance(dy, dx, along[rows], half[rows]) - each(pen[rows]))

    maps = ends.new_zeros(n, *shape)
    return paint(maps, owner, ends.mean(1), step.abs().amax(1) + pen + 1, ink, "amax")
