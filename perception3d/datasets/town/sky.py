"""The sky of a scene as a dome picture: gradient, clouds, sun glow, and a far skyline on the
horizon.

A direction (x, y, z) with z >= 0 is found at (x, y) / (1 + z): no angles, and fine at the horizon,
where detail is.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.noise import layered2, uniform
from perception3d.datasets.town.weather import Weather

SIZE = 1024
_REACH = 1.01  # the picture goes a little below the horizon


@functools.lru_cache(maxsize=8)
def dome(weather: Weather) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3) uint8 picture of the sky; stored is the square root of the light, 255 = 1.0.
    Read only.
    """
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    _paint(
        picture,
        weather.sun_direction,
        float(weather.cloud_cover),
        float(weather.fog),
        bool(weather.night),
        int(weather.seed) & 0xFFFFFF,
    )
    picture.flags.writeable = False
    return picture


@functools.lru_cache(maxsize=8)
def haze_rgb(weather: Weather) -> tuple[float, float, float]:
    """Light of the air at the horizon, linear: what far things fade to."""
    if weather.night:
        base = (0.010, 0.011, 0.014)
        lift = min(1.0, weather.fog * 20.0)
        return (base[0] + 0.018 * lift, base[1] + 0.018 * lift, base[2] + 0.018 * lift)
    grey = min(1.0, weather.fog * 40.0 + max(0.0, weather.cloud_cover - 0.5))
    clear = (0.66, 0.72, 0.80)
    return (
        clear[0] * (1 - grey) + 0.60 * grey,
        clear[1] * (1 - grey) + 0.61 * grey,
        clear[2] * (1 - grey) + 0.63 * grey,
    )


@inline
def look_up(picture: NDArray[np.uint8], x: float, y: float, z: float) -> tuple[float, float, float]:
    """Linear sky light in a unit direction (z < 0 is taken as the horizon); bilinear."""
    scale = 0.5 * picture.shape[0] / 1.01 / (1.0 + max(z, 0.0))
    size = picture.shape[0]
    u = min(max(x * scale + 0.5 * size - 0.5, 0.0), size - 1.001)
    v = min(max(y * scale + 0.5 * size - 0.5, 0.0), size - 1.001)
    c, r = int(u), int(v)
    fu, fv = u - c, v - r
    w00, w01, w10, w11 = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
    red = (
        w00 * picture[r, c, 0]
        + w01 * picture[r, c + 1, 0]
        + w10 * picture[r + 1, c, 0]
        + w11 * picture[r + 1, c + 1, 0]
    )
    green = (
        w00 * picture[r, c, 1]
        + w01 * picture[r, c + 1, 1]
        + w10 * picture[r + 1, c, 1]
        + w11 * picture[r + 1, c + 1, 1]
    )
    blue = (
        w00 * picture[r, c, 2]
        + w01 * picture[r, c + 1, 2]
        + w10 * picture[r + 1, c, 2]
        + w11 * picture[r + 1, c + 1, 2]
    )
    unit = 1.0 / (255.0 * 255.0)
    return red * red * unit, green * green * unit, blue * blue * unit


@kernel
def _air(z: float, glow: float, night: bool) -> tuple[float, float, float]:
    """Clear sky at height z = sin(elevation); glow: cosine to the sun."""
    low = math.exp(-4.5 * z)
    if night:
        return 0.004 + 0.016 * low, 0.005 + 0.014 * low, 0.010 + 0.012 * low
    halo = max(0.0, glow) ** 24.0 * 0.35 + max(0.0, glow) ** 400.0 * 2.0
    return (
        0.30 + 0.42 * low + halo,
        0.43 + 0.33 * low + 0.95 * halo,
        0.66 + 0.18 * low + 0.85 * halo,
    )


@kernel
def _cloud(x: float, y: float, z: float, cover: float, seed: int) -> tuple[float, float]:
    """Thickness 0..1 and brightness of the clouds in a direction."""
    scale = 1.6 / (z + 0.14)
    px, py = x * scale, y * scale
    body = layered2(px, py, 100 + 17 * seed, 6)
    above = layered2(px + 0.13, py + 0.09, 100 + 17 * seed, 4)
    edge = 0.63 - 0.36 * cover
    thick = min(1.0, max(0.0, (body - edge) / 0.17))
    thick = thick * thick * (3.0 - 2.0 * thick)
    return thick * min(1.0, z * 9.0 + 0.25), 0.62 + 1.1 * (body - above) + 0.34 * (1.0 - thick)


@kernel
def _skyline(azimuth: float, seed: int) -> tuple[float, float, float]:
    """Height (sine) of the far trees and of the far blocks, and the block's tone, at a bearing."""
    turn = azimuth * (180.0 / math.pi) + 180.0
    trees = (
        0.004
        + 0.030 * layered2(turn * 0.22, 3.0, 900 + seed, 4)
        + 0.007 * layered2(turn * 3.0, 9.0, 930 + seed, 2)
    )
    zone = uniform(int(turn / 31.0), 1, seed)
    width = 0.8 + 2.6 * zone * zone
    block = math.floor(turn / width)
    tall = uniform(block, 5, seed)
    dense = 0.35 + 0.5 * uniform(int(turn / 17.0), 2, seed)
    inner = (turn / width - block) < 0.55 + 0.45 * uniform(block, 7, seed)
    high = 0.015 + 0.065 * tall * tall * zone if tall > dense and inner else 0.0
    return trees, high, uniform(block, 6, seed)


@kernel
def _paint(
    picture: NDArray[np.uint8],
    sun: tuple[float, float, float],
    cover: float,
    fog: float,
    night: bool,
    seed: int,
) -> None:
    size = picture.shape[0]
    for r in range(size):
        for c in range(size):
            x, y = (2.0 * (c + 0.5) / size - 1.0) * 1.01, (2.0 * (r + 0.5) / size - 1.0) * 1.01
            q = x * x + y * y
            if q > 1.25:
                picture[r, c, 0], picture[r, c, 1], picture[r, c, 2] = 128, 128, 128
                continue
            z = (1.0 - q) / (1.0 + q)
            x, y = 2.0 * x / (1.0 + q), 2.0 * y / (1.0 + q)
            up = max(z, 0.0)
            red, green, blue = _air(up, x * sun[0] + y * sun[1] + z * sun[2], night)
            thick, bright = _cloud(x, y, up, cover, seed)
            if night:
                thick, bright = 0.6 * thick, 0.025 * bright
            red, green, blue = (
                red + (1.00 * bright - red) * thick,
                green + (1.0 * bright - green) * thick,
                blue + (1.02 * bright - blue) * thick,
            )
            trees, blocks, tone = _skyline(math.atan2(y, x), seed)
            if z < max(trees, blocks):
                built = z < blocks and z > trees
                far = 0.42 if built else 0.30
                dark = (0.12 + 0.30 * tone) if built else 0.030 + 0.05 * uniform(c // 2, r // 2, 3)
                if night:
                    dark, far = (0.35 if built and uniform(c // 3, r // 3, 9) > 0.8 else 0.002), 0.3
                red, green, blue = (
                    red * far + dark * (1 - far),
                    green * far + dark * 1.08 * (1 - far),
                    blue * far + dark * (1 - far),
                )
            if fog > 0.0:
                clear = math.exp(-fog * 45.0 / max(up, 0.03))
                air = 0.028 if night else 0.60
                red, green, blue = (
                    air + (red - air) * clear,
                    air + (green - air) * clear,
                    air * 1.03 + (blue - air) * clear,
                )
            picture[r, c, 0] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, red))))
            picture[r, c, 1] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, green))))
            picture[r, c, 2] = np.uint8(255.0 * math.sqrt(min(1.0, max(0.0, blue))))
