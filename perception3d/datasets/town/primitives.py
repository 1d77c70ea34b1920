"""Solid parts that the sensors see: one float32 row a part, and the functions that place rows in
the world.

Every object of the town (a car, a tree, a house) is a handful of rows. A row is a unit solid (cube,
ball, cylinder) with a centre, half sizes, a heading (yaw) and a tilt (pitch), a material that the
shader and the LiDAR know, and an owner: the number of the annotated object it belongs to, or -1 for
scenery.

Object frame: metres, x forward, y left, z up, origin on the ground below the box centre. World
frame: x east, y north, z up, ground at z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float32]  # (n, NUM_COLUMNS)

# Columns of a row.
X, Y, Z = 0, 1, 2  # centre [m]
HX, HY, HZ = 3, 4, 5  # half sizes along the part's own axes [m]
COS, SIN = 6, 7  # of the yaw
COS_PITCH, SIN_PITCH = 8, 9  # of the pitch: positive lifts the part's +x end
SHAPE = 10
MATERIAL = 11
RED, GREEN, BLUE = 12, 13, 14  # 0..1
OWNER = 15
VX, VY = 16, 17  # world velocity [m/s]
TAPER_FRONT, TAPER_REAR, TAPER_SIDE = (
    18,
    19,
    20,
)  # share of the half size lost at the top (TAPERED; SIDE also CYLINDER)
U = 21  # 0..1, random number of the part: reflectivity, texture offset
A, B = 22, 23  # look parameters, meaning depends on the material (see Material)
NUM_COLUMNS = 24


class Shape(IntEnum):
    """Unit solids, |x|, |y|, |z| <= 1 before scaling by the half sizes."""

    BOX = 0
    TAPERED = 1  # box whose top is pulled in by the three tapers
    ELLIPSOID = 2
    CYLINDER = 3  # axis z; TAPER_SIDE makes it a frustum (1 = cone)
    LATERAL = 4  # cylinder with axis y: wheels


class Material(IntEnum):
    """What a surface is made of. The first ones are the values of the ground raster."""

    VOID = 0  # outside every drawn surface
    GRASS = 1
    WALKWAY = 2
    CAR_PARK = 3
    ASPHALT = 4
    PAINT = 5
    WALL = 8  # facade: A = storey height [m], B = bay width [m], U = style
    CONCRETE = 9
    ROOF = 10
    GLASS = 11
    LEAVES = 12  # marched foliage: A = density 0..1, B = finest cell [m]; 0: the default
    BARK = 13
    CAR_PAINT = 14
    CLOTH = 15  # A = 1: reflective vest bands
    SKIN = 16
    TYRE = 17
    PLATE = 18  # number plate, retro-reflective
    METAL = 19
    RETRO = 20  # traffic sign face: A = pictogram style
    HEAD_LAMP = 21
    TAIL_LAMP = 22
    PLASTIC = 23
    SPOKES = 24  # bicycle wheel: rim, hub and spokes, open between
    MESH = 25  # fence: bars, open between; A = bar pitch [m]
    KERB = 26  # painted black and white; A = length of a block [m]
    BUS_BODY = 27  # window band, doors on the right side, A = length [m], B = floor height [m]
    CORRUGATED = 28  # container ribs
    BOX_BODY = 29  # truck box: plain panels with a logo; A = logo style
    CONE = 30  # orange with white reflective bands
    STRIPES = 31  # diagonal boards: A = pitch [m]; second colour white
    STREET_LAMP = 32
    SIGNAL = 33  # traffic light head: A = lit lens (0 red, 1 amber, 2 green)
    HAIR = 34
    WOOD = 35
    WHEEL = 36  # tyre with a bright rim drawn on the caps
    FUR = 37
    BEACON = 38  # flashing lamp of an emergency vehicle
    POSTER = 39  # advertisement panel
    LIT_SIGN = 40  # lettered lamp: taxi sign


def part(
    shape: Shape,
    centre_m: Sequence[float],
    half_m: Sequence[float],
    colour: Sequence[float],
    material: Material,
    *,
    yaw: float = 0.0,
    pitch: float = 0.0,
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0),
    u: float = 0.5,
    a: float = 0.0,
    b: float = 0.0,
) -> list[float]:
    """One row as a list, in the object frame, without owner and at rest.

    Args:
        shape: solid.
        centre_m: (3,) centre of the solid.
        half_m: (3,) half sizes along the part's own axes.
        colour: (3,) red, green, blue in 0..1.
        material: surface.
        yaw: heading of the part's x axis, counter-clockwise from the object's x [rad].
        pitch: tilt about the part's y axis, positive lifts the +x end [rad].
        taper: front, rear, side share of the half size lost at the top.
        u: random number of the part, 0..1.
        a: first look parameter.
        b: second look parameter.

    Returns:
        NUM_COLUMNS numbers; collect several with `rows_of`.
    """
    return [
        *centre_m,
        *half_m,
        math.cos(yaw),
        math.sin(yaw),
        math.cos(pitch),
        math.sin(pitch),
        float(shape),
        float(material),
        *colour,
        -1.0,
        0.0,
        0.0,
        *taper,
        u,
        a,
        b,
    ]


def rows_of(parts: Iterable[Sequence[float]]) -> Rows:
    """Stack rows made by `part` into a (n, NUM_COLUMNS) float32 array (n may be 0)."""
    rows = np.asarray(list(parts), dtype=np.float32)
    return rows.reshape(-1, NUM_COLUMNS)


def place(
    parts: Rows,
    xy_m: Sequence[float] | NDArray[np.floating],
    yaw_rad: float,
    velocity_mps: Sequence[float] | NDArray[np.floating] = (0.0, 0.0),
    owner: int = -1,
) -> Rows:
    """Object frame -> world: turn by the heading, move to the place, set velocity and owner.

    Args:
        parts: (n, NUM_COLUMNS) rows in the object frame.
        xy_m: (2,) place of the object's origin on the ground.
        yaw_rad: heading, counter-clockwise from east.
        velocity_mps: (2,) world velocity, used to shift the object to other times.
        owner: number of the annotated object, -1 for scenery.

    Returns:
        (n, NUM_COLUMNS) new rows.
    """
    placed = parts.copy()
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    placed[:, X] = xy_m[0] + c * parts[:, X] - s * parts[:, Y]
    placed[:, Y] = xy_m[1] + s * parts[:, X] + c * parts[:, Y]
    placed[:, COS] = c * parts[:, COS] - s * parts[:, SIN]
    placed[:, SIN] = s * parts[:, COS] + c * parts[:, SIN]
    placed[:, VX] = velocity_mps[0]
    placed[:, VY] = velocity_mps[1]
    placed[:, OWNER] = owner
    return placed


def advance(rows: Rows, seconds: float) -> Rows:
    """The same rows after `seconds` of motion at their own velocity (negative: earlier)."""
    moved = rows.copy()
    moved[:, X] += rows[:, VX] * seconds
    moved[:, Y] += rows[:, VY] * seconds
    return moved


def bounds(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axis-aligned bounds of each part, exact for boxes and never too small for the round shapes.

    Args:
        rows: (n, NUM_COLUMNS) rows.

    Returns:
        Lower and upper corner, each (n, 3) [m], in the frame of the rows.
    """
    r = rows.astype(np.float64)
    ax = np.stack([r[:, COS] * r[:, COS_PITCH], r[:, SIN] * r[:, COS_PITCH], r[:, SIN_PITCH]], 1)
    ay = np.stack([-r[:, SIN], r[:, COS], np.zeros(len(r))], 1)
    az = np.stack([-r[:, COS] * r[:, SIN_PITCH], -r[:, SIN] * r[:, SIN_PITCH], r[:, COS_PITCH]], 1)
    sx, sy, sz = (r[:, k : k + 1] for k in (HX, HY, HZ))
    box = np.abs(ax) * sx + np.abs(ay) * sy + np.abs(az) * sz
    ball = np.sqrt((ax * sx) ** 2 + (ay * sy) ** 2 + (az * sz) ** 2)
    upright = np.sqrt((ax * sx) ** 2 + (ay * sy) ** 2) + np.abs(az) * sz
    lateral = np.sqrt((ax * sx) ** 2 + (az * sz) ** 2) + np.abs(ay) * sy
    shape = rows[:, SHAPE].astype(int)[:, None]
    reach = np.where(shape == Shape.ELLIPSOID, ball, box)
    reach = np.where(shape == Shape.CYLINDER, upright, reach)
    reach = np.where(shape == Shape.LATERAL, lateral, reach)
    centre = r[:, X : Z + 1]
    return centre - reach, centre + reach
