"""Colours: one per class wherever a box is drawn, ramps for points, and the dark ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.structures.taxonomy import CLASS_COLORS, MAP_COLORS

Rgb = tuple[int, int, int]

BACKGROUND: Rgb = (13, 17, 23)
PANEL: Rgb = (22, 27, 34)
LINE: Rgb = (48, 56, 68)
TEXT: Rgb = (222, 228, 236)
FAINT_TEXT: Rgb = (139, 150, 165)
EGO: Rgb = (235, 240, 246)
UNKNOWN: Rgb = (150, 150, 150)

HEIGHT_RANGE_M = (-2.2, 4.0)
"""Heights above `ref`'s origin that span the ramp (a roof LiDAR sits 1.8 m above the ground)."""

# Cold and unsaturated, so that the saturated class colours of boxes stand out.
_HEIGHT_RAMP = np.array(
    [(56, 92, 150), (60, 136, 178), (84, 178, 186), (154, 212, 186), (238, 240, 200)], np.float64
)
_INTENSITY_RAMP = np.array(
    [(52, 45, 92), (104, 66, 130), (178, 92, 130), (238, 146, 110), (250, 228, 170)], np.float64
)
_DEPTH_RAMP = np.array(
    [(255, 72, 60), (255, 170, 50), (240, 240, 90), (90, 220, 140), (60, 150, 240), (90, 80, 200)],
    np.float64,
)


def class_color(label: int, classes: tuple[str, ...]) -> Rgb:
    """Return the colour of a class index; grey for -1 (ignored) and names without a colour."""
    if not 0 <= label < len(classes):
        return UNKNOWN
    red, green, blue = CLASS_COLORS.get(classes[label], UNKNOWN)
    return int(red), int(green), int(blue)


def text_color(color: Rgb) -> Rgb:
    """Lighten a class colour so that small letters in it can be read on a dark ground."""
    red, green, blue = (round(0.7 * channel + 0.3 * 255) for channel in color)
    return red, green, blue


def map_color(name: str) -> Rgb:
    """Return the colour of a map class; grey for a name without one."""
    red, green, blue = MAP_COLORS.get(name, UNKNOWN)
    return int(red), int(green), int(blue)


def map_weight(name: str) -> float:
    """Return how strongly a map class covers what lies below: large areas only faintly."""
    areas = {"drivable_area": 0.19, "walkway": 0.26, "carpark_area": 0.24, "ped_crossing": 0.5}
    return areas.get(name, 0.75)


def height_ramp() -> list[Rgb]:
    """Return the colours of low to high points, for legends."""
    return [(int(red), int(green), int(blue)) for red, green, blue in _HEIGHT_RAMP]


def intensity_ramp() -> list[Rgb]:
    """Return the colours of dull to bright points, for legends."""
    return [(int(red), int(green), int(blue)) for red, green, blue in _INTENSITY_RAMP]


def depth_ramp() -> list[Rgb]:
    """Return the colours of near to far points, for legends."""
    return [(int(red), int(green), int(blue)) for red, green, blue in _DEPTH_RAMP]


def _ramp(fraction: NDArray[Any], stops: NDArray[np.float64]) -> NDArray[np.uint8]:
    fraction = np.nan_to_num(np.clip(fraction, 0.0, 1.0))
    at = np.linspace(0.0, 1.0, len(stops))
    channels = [np.interp(fraction, at, stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def height_colors(z_m: NDArray[Any]) -> NDArray[np.uint8]:
    """Colour (N,) heights in `ref`: (N, 3) uint8 RGB over :data:`HEIGHT_RANGE_M`."""
    low, high = HEIGHT_RANGE_M
    return _ramp((np.asarray(z_m, dtype=np.float64) - low) / (high - low), _HEIGHT_RAMP)


def intensity_colors(intensity: NDArray[Any]) -> NDArray[np.uint8]:
    """Colour (N,) intensities of any scale by rank-robust stretch: (N, 3) uint8 RGB."""
    values = np.asarray(intensity, dtype=np.float64)
    top = np.percentile(values, 98) if len(values) else 1.0
    return _ramp(np.sqrt(np.clip(values / max(float(top), 1e-9), 0.0, 1.0)), _INTENSITY_RAMP)


def depth_colors(depth_m: NDArray[Any], far_m: float = 60.0) -> NDArray[np.uint8]:
    """Colour (N,) depths, near red to far violet on a logarithmic scale: (N, 3) uint8 RGB."""
    depth = np.maximum(np.asarray(depth_m, dtype=np.float64), 1.0)
    return _ramp(np.log(depth / 2.0) / np.log(far_m / 2.0), _DEPTH_RAMP)
