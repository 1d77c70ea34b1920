"""From linear light to the picture: smoothed outlines, glow of lamps, film curve, pixel noise."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.noise import hash3


def add_glow(light: NDArray[np.float32]) -> None:
    """Let very bright pixels (lamps at night) shine onto their neighbours; changes `light` (H, W,
    3) in place.
    """
    size = max(3, light.shape[1] // 90) | 1
    bright = np.minimum(np.maximum(light - 0.9, 0.0), 2.5)
    light += 0.35 * cv2.GaussianBlur(bright, (size, size), 0)
    wide = 4 * size + 1
    light += 0.20 * cv2.GaussianBlur(bright, (wide, wide), 0)


@kernel
def develop(
    light: NDArray[np.float32],
    hit: NDArray[np.int32],
    noise: float,
    seed: int,
    image: NDArray[np.uint8],
) -> None:
    """Write the picture.

    Pixels on an outline (a neighbour shows another part) are mixed with their neighbours, which
    hides the steps that one ray a pixel leaves.

    Args:
        light: (H, W, 3) linear light, 1 is nearly white.
        hit: (H, W) part of each pixel.
        noise: deviation of the pixel noise in grey levels.
        seed: of the noise.
        image: (H, W, 3) uint8 RGB out.
    """
    height, width = hit.shape
    for v in range(height):
        above, below = max(0, v - 1), min(height - 1, v + 1)
        for u in range(width):
            left, right = max(0, u - 1), min(width - 1, u + 1)
            here = hit[v, u]
            outline = (
                hit[v, left] != here
                or hit[v, right] != here
                or hit[above, u] != here
                or hit[below, u] != here
            )
            h = hash3(u, v, seed)
            grey = noise * ((h & 0xFF) + ((h >> 8) & 0xFF) - 255.0) * (1.0 / 104.0)
            for a in range(3):
                value = light[v, u, a]
                if outline:
                    around = (
                        light[v, left, a]
                        + light[v, right, a]
                        + light[above, u, a]
                        + light[below, u, a]
                    )
                    value = 0.52 * value + 0.12 * around
                if value > 0.6:  # shoulder
                    over = value - 0.6
                    value = 0.6 + over / (1.0 + 1.2 * over)
                tint = ((h >> (16 + 4 * a)) & 0xF) - 7.5
                level = 255.0 * math.sqrt(max(value, 0.0)) + grey + 0.16 * noise * tint + 0.5
                image[v, u, a] = np.uint8(min(255.0, max(0.0, level)))
