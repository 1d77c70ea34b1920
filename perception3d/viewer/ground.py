"""The map below a scene: classes painted over one another, fading out towards the map's border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import BEVGrid, MapRaster
from perception3d.viewer.colors import map_color, map_weight
from perception3d.viewer.drawable import to_numpy

FADE_M = 6.0
"""A raster ends where its grid ends and not where the road does; the last metres fade to say so."""
LINES = ("divider",)
"""Map classes one or two cells wide, which a blur alone would wash out."""


def paint_map(raster: MapRaster) -> NDArray[np.float32]:
    """Colour every cell of a raster.

    Args:
        raster: K classes on a grid.

    Returns:
        (ny, nx, 4) red, green, blue in 0 to 255, multiplied by the opacity that follows in 0 to 1.
        Multiplied colours can be resampled without dark seams. Row 0 is the smallest y.
    """
    import cv2

    picture = np.zeros((raster.grid.ny, raster.grid.nx, 4), dtype=np.float32)
    layers = list(zip(raster.classes, to_numpy(raster.mask), strict=True))
    # Large, faint areas below; crossings, lines and dividers above them.
    for name, mask in sorted(layers, key=lambda layer: map_weight(layer[0])):
        # A little blur takes the steps of the cells from slanted borders.
        soft = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0.7)
        if name in LINES:
            soft = np.minimum(1.8 * soft, 1.0)
        color = np.array([*map_color(name), 1.0], dtype=np.float32)
        picture += (map_weight(name) * soft)[..., None] * (color - picture)
    return picture * fade(raster.grid)[..., None]


def fade(grid: BEVGrid) -> NDArray[np.float32]:
    """Return (ny, nx) opacities: 0 at the border of the grid, 1 from :data:`FADE_M` inwards."""
    sides = []
    for count, (low, high) in ((grid.ny, grid.y_m), (grid.nx, grid.x_m)):
        inwards_m = (np.minimum(np.arange(count), np.arange(count)[::-1]) + 0.5) * grid.cell_m
        width_m = min(FADE_M, 0.25 * (high - low))
        share = np.clip(inwards_m / width_m, 0.0, 1.0)
        sides.append(share * share * (3.0 - 2.0 * share))
    result: NDArray[np.float32] = np.outer(*sides).astype(np.float32)
    return result


def reach_m(grid: BEVGrid) -> float:
    """Return how far from the origin of `ref` the map reaches on its shortest side."""
    return float(min(-grid.x_m[0], grid.x_m[1], -grid.y_m[0], grid.y_m[1]))


def ground_plane(xyz_m: NDArray[np.float64], start_m: float) -> NDArray[np.float64]:
    """Fit z = a x + b y + c to the lowest points of a cloud, for a map below a 3-D scene.

    Args:
        xyz_m: (N, 3) points of `ref`.
        start_m: Height of the ground below the vehicle, from which the search starts.

    Returns:
        (3,) a, b, c; level at ``start_m`` where too few points agree.
    """
    plane = np.array([0.0, 0.0, start_m])
    near = xyz_m[np.hypot(xyz_m[:, 0], xyz_m[:, 1]) < 40.0]
    terms = np.column_stack([near[:, :2], np.ones(len(near))])
    # Twice: the first pass catches a slope, the second drops what stands on it.
    for tolerance_m in (0.6, 0.25):
        fits = np.abs(near[:, 2] - terms @ plane) < tolerance_m
        if fits.sum() < 200:
            break
        plane = np.linalg.lstsq(terms[fits], near[fits, 2], rcond=None)[0]
    return plane
