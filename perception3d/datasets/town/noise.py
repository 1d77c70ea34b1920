"""Random numbers that depend only on where they are asked for: integer hashes and smooth noise on
top of them.

Noise in kernels must not depend on the order of work, so it is a hash of (column, ring, seed) or of
a cell's coordinates.
"""

from __future__ import annotations

import math

import numpy as np

from perception3d.datasets.town.compiled import typed

_MULTIPLY_A = np.uint32(0x7FEB352D)
_MULTIPLY_B = np.uint32(0x846CA68B)
_AXIS_Y = np.uint32(0x9E3779B1)
_AXIS_Z = np.uint32(0x85EBCA77)
_UNIT = 1.0 / 4294967296.0


@typed("uint32(int64)")
def mixed(value: int) -> int:
    """Well mixed 32-bit number of a 32-bit number (two-round xor-multiply; constants: C. Wellons,
    "hash prospector").
    """
    h = np.uint32(value)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * _MULTIPLY_A)
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * _MULTIPLY_B)
    return np.uint32(h ^ (h >> np.uint32(16)))  # type: ignore[return-value]


@typed("uint32(int64, int64, int64)")
def hash3(x: int, y: int, z: int) -> int:
    """32-bit hash of three whole numbers of any sign."""
    h = np.uint32(np.int64(x) & 0xFFFFFFFF)
    h = np.uint32(h + np.uint32(np.uint32(np.int64(y) & 0xFFFFFFFF) * _AXIS_Y))
    h = np.uint32(h ^ np.uint32(np.uint32(np.int64(z) & 0xFFFFFFFF) * _AXIS_Z))
    return mixed(h)  # type: ignore[arg-type]


@typed("float64(int64, int64, int64)")
def uniform(x: int, y: int, z: int) -> float:
    """Uniform number in [0, 1) of three whole numbers."""
    return hash3(x, y, z) * _UNIT


@typed("float64(int64)")
def gaussian(h: int) -> float:
    """Nearly normal number (mean 0, deviation 1, within +-3.46) from the four bytes of one hash."""
    total = (h & 0xFF) + ((h >> 8) & 0xFF) + ((h >> 16) & 0xFF) + ((h >> 24) & 0xFF)
    return (total - 510.0) * (1.0 / 147.8)


@typed("float64(float64, float64, int64)")
def smooth2(x: float, y: float, seed: int) -> float:
    """Smooth noise in [0, 1) with features of size 1."""
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = int(fx), int(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    a, b = uniform(ix, iy, seed), uniform(ix + 1, iy, seed)
    c, d = uniform(ix, iy + 1, seed), uniform(ix + 1, iy + 1, seed)
    return (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v


@typed("float64(float64, float64, int64, int64)")
def layered2(x: float, y: float, seed: int, octaves: int) -> float:
    """Sum of octaves of smooth noise, in [0, 1)."""
    total, weight, norm = 0.0, 1.0, 0.0
    for k in range(octaves):
        total += weight * smooth2(x, y, seed + k)
        norm += weight
        weight *= 0.55
        x, y = 1.97 * x + 0.31 * y, 1.97 * y - 0.31 * x
    return total / norm


@typed("float64(float64)")
def fading(x: float) -> float:
    """About exp(-x) for x >= 0, without the library call: 1 over the first terms of exp(x); within
    0.02.
    """
    return 1.0 / (1.0 + x * (1.0 + x * (0.5 + x * (0.16667 + x * 0.04167))))
