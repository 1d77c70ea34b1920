"""What the ground looks like at a point: the district's raster, bilinear and with mips, plus grain
too fine for the raster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import inline
from perception3d.datasets.town.noise import smooth2, uniform
from perception3d.datasets.town.shadows import GroundRaster

_M = p.Material
_GRASS, _WALKWAY, _CAR_PARK, _ASPHALT, _PAINT = (
    int(_M.GRASS), int(_M.WALKWAY), int(_M.CAR_PARK), int(_M.ASPHALT), int(_M.PAINT)
)  # fmt: skip
LEVELS = 6


@dataclass(frozen=True)
class PreparedGround:
    """A district's ground, ready for rendering.

    Attributes:
        mips: all LEVELS pictures (H, W, 3) RGB behind each other in one (n,) uint8 array, each half
            as fine as the one before.
        levels: (LEVELS, 3) int64: place of the level's first byte in `mips`, height, width.
        material: (H, W) values of Material, as fine as the first picture.
        place: x, y of the corner of cell (0, 0), cell size [m].
    """

    mips: NDArray[np.uint8]
    levels: NDArray[np.int64]
    material: NDArray[np.uint8]
    place: tuple[float, float, float]


def prepare_ground(ground: GroundRaster) -> PreparedGround:
    """Mips of the ground's colours: once a district.

    Args:
        ground: raster with colour (H, W, 3) and material (H, W).

    Returns:
        The prepared ground.

    Raises:
        ValueError: if colour and material differ in size.
    """
    if ground.colour.shape != (*ground.material.shape, 3):
        raise ValueError(
            "ground.colour must be (H, W, 3) over material (H, W); found "
            f"{ground.colour.shape} and {ground.material.shape}"
        )
    mips = [np.ascontiguousarray(ground.colour)]
    for _ in range(LEVELS - 1):
        height, width = mips[-1].shape[:2]
        size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        even = cv2.copyMakeBorder(mips[-1], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        mips.append(np.ascontiguousarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA)))
    place = (float(ground.origin_xy_m[0]), float(ground.origin_xy_m[1]), float(ground.cell_m))
    starts = np.cumsum([0] + [m.size for m in mips[:-1]])
    levels = np.array([(k, *m.shape[:2]) for k, m in zip(starts, mips, strict=True)], np.int64)
    return PreparedGround(
        mips=np.concatenate([m.ravel() for m in mips]),
        levels=levels,
        material=np.ascontiguousarray(ground.material),
        place=place,
    )


@inline
def _bilinear(
    mips: NDArray[np.uint8], start: int, height: int, width: int, x: float, y: float
) -> tuple[float, float, float]:
    """Colour 0..255 at a place in cells of the level that starts at byte `start`."""
    x = min(max(x - 0.5, 0.0), width - 1.001)
    y = min(max(y - 0.5, 0.0), height - 1.001)
    c, r = int(x), int(y)
    fu, fv = x - c, y - r
    a, b, d, e = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
    k = start + 3 * (r * width + c)
    m = k + 3 * width
    red = a * mips[k] + b * mips[k + 3] + d * mips[m] + e * mips[m + 3]
    green = a * mips[k + 1] + b * mips[k + 4] + d * mips[m + 1] + e * mips[m + 4]
    blue = a * mips[k + 2] + b * mips[k + 5] + d * mips[m + 2] + e * mips[m + 5]
    return red, green, blue


@inline
def _grain(material: int, x: float, y: float, distance: float, fine: float) -> float:
    """Factor of the fine structure: stones in asphalt, slabs, blades of grass."""
    cell = 0.03
    while cell < fine:
        cell *= 2.0
    speck = uniform(math.floor(x / cell), math.floor(y / cell), 11) - 0.5
    near = min(1.0, 6.0 / distance)
    if material in (_ASPHALT, _PAINT, _CAR_PARK):
        worn = smooth2(x * 0.35, y * 0.35, 13) - 0.5
        patch = uniform(math.floor(x / 7.3 + 0.2 * y / 7.3), math.floor(y / 9.1), 19)
        tar = -0.10 if patch > 0.86 and material != _PAINT else 0.0
        return 1.0 + 0.11 * near * speck + 0.16 * worn + tar
    if material == _WALKWAY:
        joint = min(
            abs(x / 0.6 - math.floor(x / 0.6) - 0.5), abs(y / 0.6 - math.floor(y / 0.6) - 0.5)
        )
        slab = uniform(math.floor(x / 0.6), math.floor(y / 0.6), 29) - 0.5
        keep = min(1.0, max(0.0, 1.5 - 9.0 * fine))
        seam = -0.20 if joint > 1.0 and keep > 0.0 else 0.0
        edge = max(
            abs(x / 0.6 - math.floor(x / 0.6) - 0.5), abs(y / 0.6 - math.floor(y / 0.6) - 0.5)
        )
        seam = -0.22 * keep if edge > 0.475 else 0.0
        return 1.0 + 0.09 * near * speck + 0.10 * slab * keep + seam
    tuft = smooth2(x * 1.7, y * 1.7, 37) - 0.5
    return 1.0 + 0.55 * near * speck + 0.45 * tuft


@inline
def ground_look(
    mips: NDArray[np.uint8],
    levels: NDArray[np.int64],
    material: NDArray[np.uint8],
    place: tuple[float, float, float],
    x: float,
    y: float,
    distance: float,
    fine: float,
    slant: float,
) -> tuple[float, float, float, float]:
    """Linear colour and gloss of the ground.

    Args:
        mips, levels, material, place: of PreparedGround.
        x: world place [m].
        y: world place [m].
        distance: from the camera [m].
        fine: width of a pixel there [m].
        slant: sine of the angle between ray and ground.

    Returns:
        red, green, blue, gloss.
    """
    # A pixel's footprint is long and narrow: take the mip of its geometric mean.
    footprint = fine / math.sqrt(max(slant, 0.01))
    level, cell = 0, place[2]
    while cell < 0.75 * footprint and level < LEVELS - 1:
        cell *= 2.0
        level += 1
    px, py = (x - place[0]) / place[2], (y - place[1]) / place[2]
    inside = 0.0 <= px < material.shape[1] and 0.0 <= py < material.shape[0]
    what = int(material[int(py), int(px)]) if inside else _GRASS
    if inside:
        scale = place[2] / cell
        red, green, blue = _bilinear(
            mips, levels[level, 0], levels[level, 1], levels[level, 2], px * scale, py * scale
        )
    else:
        red, green, blue = 86.0, 92.0, 58.0
    factor = _grain(what, x, y, distance, fine) * (1.0 / 255.0)
    if what == _GRASS or what == 0:  # dry and bare spots
        dry = smooth2(x * 0.22, y * 0.22, 43)
        dry = max(0.0, dry - 0.52) * 1.5
        red, green, blue = red + dry * 60.0, green + dry * 22.0, blue + dry * 18.0
    red, green, blue = red * factor, green * factor, blue * factor
    return (
        red * red,
        green * green,
        blue * blue,
        0.10 if what in (_ASPHALT, _PAINT) else 0.0,
    )
