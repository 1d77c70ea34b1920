"""What vehicles look like at a point: paint with seams, glass, bus flanks, truck boxes, wheels,
lamps.

These patterns are what a camera can tell apart where the LiDAR sees the same flat boxes: a bus has
a band of windows and doors, a truck's box has a logo, a trailer has ribs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import kernel
from perception3d.datasets.town.noise import smooth2, uniform

_HX, _HY, _HZ, _U, _A, _B = p.HX, p.HY, p.HZ, p.U, p.A, p.B
_RED, _GREEN, _BLUE = p.RED, p.GREEN, p.BLUE
_M = p.Material
_CAR_PAINT, _GLASS, _BUS, _CORRUGATED = (
    int(_M.CAR_PAINT),
    int(_M.GLASS),
    int(_M.BUS_BODY),
    int(_M.CORRUGATED),
)
_BOX_BODY, _TYRE, _WHEEL, _SPOKES = int(_M.BOX_BODY), int(_M.TYRE), int(_M.WHEEL), int(_M.SPOKES)
_PLATE, _HEAD, _TAIL, _BEACON = int(_M.PLATE), int(_M.HEAD_LAMP), int(_M.TAIL_LAMP), int(_M.BEACON)
_PLASTIC = int(_M.PLASTIC)

Look = tuple[float, float, float, float, float]
Vector = tuple[float, float, float]


@kernel
def is_vehicle_material(material: int) -> bool:
    """True for the materials that `vehicle` knows."""
    return (
        material in (_CAR_PAINT, _GLASS, _TYRE, _WHEEL, _SPOKES, _PLATE, _HEAD, _TAIL, _BEACON)
        or _BUS <= material <= _BOX_BODY
    )


@kernel
def _bus(rows: NDArray[np.float32], i: int, q: Vector, n: Vector, night: bool) -> Look:
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    x, z = q[0], (q[2] / rows[i, _HZ] + 1.0) * 0.5
    half = rows[i, _HX]
    seed = int(rows[i, _U] * 65536.0)
    if abs(n[2]) > 0.6:
        return 0.55, 0.55, 0.54, 0.15, 0.0
    if abs(n[1]) > abs(n[0]):
        if n[1] < 0.0:  # doors on the kerb side: front and middle
            door = (half - 1.6 < x < half - 0.35) or (-0.75 < x < 0.75)
            if door and 0.06 < z < 0.80:
                leaf = (x - (half - 0.97)) if x > 1.0 else x
                pane = 0.10 < abs(leaf) < 0.54 and 0.11 < z < 0.76
                if not pane:
                    return 0.03, 0.03, 0.03, 0.2, 0.0
                return (0.8, 0.78, 0.65, 0.4, 0.5) if night else (0.02, 0.025, 0.03, 0.95, 0.0)
        if 0.43 < z < 0.80 and abs(x) < half - 0.12:
            place = (x + half) / 1.45
            pillar = place - math.floor(place)
            if pillar < 0.055:
                return 0.015, 0.015, 0.015, 0.5, 0.0
            seat = z < 0.55 and (pillar % 0.5) > 0.27 and uniform(int(place * 2.0), 3, seed) > 0.3
            if night:
                return 0.85, 0.84, 0.72, 0.3, 0.22 if seat else 0.6
            return (0.05, 0.06, 0.12, 0.8, 0.0) if seat else (0.025, 0.03, 0.035, 1.0, 0.0)
        if 0.28 < z < 0.36 or z < 0.05:  # stripe along the flank, dark skirt
            return (
                (0.75 - 0.7 * red, 0.7 - 0.6 * green, 0.7 - 0.6 * blue, 0.3, 0.0)
                if z > 0.1
                else (0.02, 0.02, 0.02, 0.0, 0.0)
            )
        wheel = min(abs(x - (half - 2.3)), abs(x + half - 2.9))
        dark = 0.25 if wheel < 0.62 and z < 0.24 else 1.0
        return red * dark, green * dark, blue * dark, 0.4, 0.0
    y = abs(q[1]) / rows[i, _HY]
    if n[0] > 0.0:
        if z > 0.86 and y < 0.72:  # destination board
            letter = (q[1] + 2.0) * 7.0
            on = (
                0.885 < z < 0.955
                and (letter % 1.0) < 0.7
                and uniform(int(letter), int(z * 60.0), seed) > 0.35
            )
            return (
                (1.0, 0.55, 0.05, 0.0, 1.2 if night else 0.5)
                if on
                else (0.01, 0.01, 0.01, 0.3, 0.0)
            )
        if 0.32 < z < 0.84 and y < 0.92:
            return (
                (0.4, 0.4, 0.34, 0.4, 0.35) if night and z > 0.5 else (0.02, 0.025, 0.03, 1.0, 0.0)
            )
    elif 0.55 < z < 0.82 and y < 0.8:
        return 0.02, 0.025, 0.03, 0.9, 0.0
    elif z < 0.30 and y < 0.7 and (z * 40.0) % 1.0 < 0.5:  # engine grille
        return 0.03, 0.03, 0.03, 0.0, 0.0
    return red, green, blue, 0.4, 0.0


@kernel
def _ribs(rows: NDArray[np.float32], i: int, q: Vector, n: Vector, fine: float) -> Look:
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    if abs(n[2]) > 0.6:
        return red * 0.8, green * 0.8, blue * 0.8, 0.05, 0.0
    side = abs(n[1]) > abs(n[0])
    along, half = (q[0], rows[i, _HX]) if side else (q[1], rows[i, _HY])
    z = q[2]
    edge = min(half - abs(along), rows[i, _HZ] - abs(z))
    if edge < 0.10:
        return red * 0.45, green * 0.45, blue * 0.45, 0.1, 0.0
    if not side and n[0] < 0.0:  # doors: middle seam and lock bars
        bar = abs(abs(along) - 0.45 * half) < 0.03 or abs(along) < 0.02
        return (0.35, 0.35, 0.35, 0.3, 0.0) if bar else (red, green, blue, 0.1, 0.0)
    wave = math.sin(along * (2.0 * math.pi / 0.34))
    keep = min(1.0, max(0.0, 2.0 - 14.0 * fine))
    shade = 0.92 + 0.42 * wave * keep
    rust = 0.9 + 0.2 * smooth2(along * 0.8, z * 1.1, 71)
    return red * shade * rust, green * shade * rust, blue * shade * rust, 0.08, 0.0


@kernel
def _truck_box(rows: NDArray[np.float32], i: int, q: Vector, n: Vector) -> Look:
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    if abs(n[2]) > 0.6:
        return 0.6, 0.6, 0.6, 0.05, 0.0
    side = abs(n[1]) > abs(n[0])
    along, half = (q[0], rows[i, _HX]) if side else (q[1], rows[i, _HY])
    z = q[2] / rows[i, _HZ]
    if min(half - abs(along), rows[i, _HZ] - abs(q[2])) < 0.06:
        return 0.30, 0.30, 0.31, 0.2, 0.0
    seed = int(rows[i, _U] * 65536.0)
    if side:
        x = along * (-1.0 if n[1] > 0.0 else 1.0) / half  # reads left to right on both flanks
        hue = uniform(1, 1, seed)
        ink = (0.5 * hue, 0.05 + 0.2 * (1 - hue), 0.35 * (1 - hue))
        style = int(rows[i, _A]) % 3
        if style == 0 and -0.15 < z < 0.35 and abs(x) < 0.7:  # name in big letters
            letter = (x + 0.7) * 6.0
            place = letter - math.floor(letter)
            kind = uniform(int(letter), 2, seed)
            if place < 0.75 and (
                place < 0.22 or (kind > 0.5 and place > 0.52) or z > 0.25 or z < -0.05
            ):
                return ink[0], ink[1], ink[2], 0.1, 0.0
        elif (style == 1 and (z + 0.45 * x) * 1.2 > 0.35) or (
            style == 2 and (x + 0.45) ** 2 * 2.0 + z * z < 0.16
        ):  # sweep of colour
            return ink[0], ink[1], ink[2], 0.1, 0.0
    elif n[0] < 0.0 and (abs(along) < 0.02 or abs(abs(along) - 0.4 * half) < 0.025):
        return 0.2, 0.2, 0.2, 0.3, 0.0
    return red, green, blue, 0.12, 0.0


@kernel
def _paint(rows: NDArray[np.float32], i: int, q: Vector, n: Vector, fine: float) -> Look:
    """Car paint; A > 0: a flank with door seams, handles, and a dark sill."""
    red, green, blue = rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2
    if rows[i, _A] > 0.0 and abs(n[1]) > 0.6 and fine < 0.06:
        x, z = q[0] / rows[i, _HX], q[2] / rows[i, _HZ]
        seam = (
            abs(x - 0.30) * rows[i, _HX] < 0.012
            or abs(x + 0.10) * rows[i, _HX] < 0.012
            or abs(x + 0.46) * rows[i, _HX] < 0.012
        )
        if seam and z > -0.75:
            return red * 0.12, green * 0.12, blue * 0.12, 0.1, 0.0
        if 0.52 < z < 0.64 and (0.0 < x + 0.07 < 0.06 or 0.0 < x + 0.43 < 0.06):
            return 0.45, 0.45, 0.45, 0.6, 0.0
        if z < -0.72:
            return red * 0.2 + 0.01, green * 0.2 + 0.01, blue * 0.2 + 0.01, 0.05, 0.0
    return red, green, blue, 0.55, 0.0


@kernel
def _glass(rows: NDArray[np.float32], i: int, q: Vector, n: Vector) -> Look:
    """Glass; A > 0: a cabin, with its pillars and roof rail in body paint and B side windows."""
    if rows[i, _A] > 0.0:
        x, y, z = q[0] / rows[i, _HX], q[1] / rows[i, _HY], q[2] / rows[i, _HZ]
        up = 0.5 * (z + 1.0)
        front = rows[i, _HX] * (1.0 - rows[i, p.TAPER_FRONT] * up) - q[0]
        rear = rows[i, _HX] * (1.0 - rows[i, p.TAPER_REAR] * up) + q[0]
        pillar = False
        if abs(n[1]) > 0.6:
            panes = (x + 0.86) / 1.72 * rows[i, _B]
            gap = abs(panes - math.floor(panes + 0.5)) * 1.72 / rows[i, _B] * rows[i, _HX]
            pillar = (
                front < 0.07
                or rear < 0.10
                or z > 0.86
                or (gap < 0.045 and 0.3 < panes < rows[i, _B] - 0.3)
            )
        else:
            pillar = (
                abs(q[1]) > rows[i, _HY] * (1.0 - rows[i, p.TAPER_SIDE] * up) - 0.07 or z > 0.90
            )
        if pillar:
            return rows[i, _RED] ** 2, rows[i, _GREEN] ** 2, rows[i, _BLUE] ** 2, 0.5, 0.0
        if y * y < 0.5 and abs(n[0]) > 0.3 and z < -0.3:  # seats and dashboard
            return 0.035, 0.034, 0.033, 0.85, 0.0
    return 0.016, 0.018, 0.020, 1.0, 0.0


@kernel
def _wheel(rows: NDArray[np.float32], i: int, q: Vector, n: Vector) -> Look:
    """Tyre with an alloy rim of five spokes on the caps."""
    if abs(n[1]) < 0.5:
        return 0.014, 0.014, 0.015, 0.0, 0.0
    x, z = q[0] / rows[i, _HX], q[2] / rows[i, _HZ]
    radius = math.sqrt(x * x + z * z)
    if radius > 0.66:
        return 0.016, 0.016, 0.017, 0.0, 0.0
    turn = (math.atan2(z, x) + 6.2832 * rows[i, _U]) * (5.0 / (2.0 * math.pi))
    spoke = abs(turn - math.floor(turn) - 0.5) < 0.17 + 0.1 * (1.0 - radius)
    if radius > 0.58 or radius < 0.18 or spoke:
        return 0.42, 0.42, 0.43, 0.5, 0.0
    return 0.02, 0.02, 0.02, 0.1, 0.0


@kernel
def vehicle(
    rows: NDArray[np.float32], i: int, material: int, q: Vector, n: Vector, fine: float, night: bool
) -> Look:
    """Look of a vehicle's part: q point and n normal in the part's axes, `fine` metres a pixel."""
    if material == _CAR_PAINT:
        return _paint(rows, i, q, n, fine)
    if material == _GLASS:
        return _glass(rows, i, q, n)
    if material == _BUS:
        return _bus(rows, i, q, n, night)
    if material == _CORRUGATED:
        return _ribs(rows, i, q, n, fine)
    if material == _BOX_BODY:
        return _truck_box(rows, i, q, n)
    if material == _WHEEL:
        return _wheel(rows, i, q, n)
    if material == _PLATE:
        letter = (q[1] / rows[i, _HY] + 1.0) * 4.0
        ink = abs(q[2]) < 0.6 * rows[i, _HZ] and (letter % 1.0) < 0.6 and 0.3 < letter < 7.7
        return (0.05, 0.05, 0.06, 0.1, 0.0) if ink else (0.75, 0.75, 0.70, 0.1, 0.3)
    if material == _HEAD:
        return 0.80, 0.82, 0.85, 0.7, 3.0 if night else 0.12
    if material == _TAIL:
        return 0.45, 0.015, 0.015, 0.5, 1.4 if night else 0.15
    if material == _BEACON:
        if q[1] > 0.0:
            return 0.05, 0.10, 0.75, 0.4, 2.0 if night else 0.5
        return 0.75, 0.03, 0.03, 0.4, 2.0 if night else 0.5
    return 0.018, 0.018, 0.019, 0.02, 0.0
