"""A ray against one part: move the ray into the part's unit frame, do a unit test, keep t metric.

The direction is divided by the half sizes as well, so t counts lengths of the given direction:
metres for a unit direction (LiDAR), metres of depth for a camera ray whose z component is 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import primitives as p
from perception3d.datasets.town.compiled import inline, kernel
from perception3d.datasets.town.noise import uniform

MISS = 1e30

_X, _Y, _Z, _HX, _HY, _HZ = p.X, p.Y, p.Z, p.HX, p.HY, p.HZ
_COS, _SIN, _CP, _SP = p.COS, p.SIN, p.COS_PITCH, p.SIN_PITCH
_SHAPE, _MATERIAL, _U, _A, _B = p.SHAPE, p.MATERIAL, p.U, p.A, p.B
_TF, _TR, _TS = p.TAPER_FRONT, p.TAPER_REAR, p.TAPER_SIDE
_BOX, _TAPERED, _ELLIPSOID = int(p.Shape.BOX), int(p.Shape.TAPERED), int(p.Shape.ELLIPSOID)
_LATERAL = int(p.Shape.LATERAL)
_LEAVES, _SPOKES, _MESH = int(p.Material.LEAVES), int(p.Material.SPOKES), int(p.Material.MESH)

Vector = tuple[float, float, float]


@inline
def to_part(rows: NDArray[np.float32], i: int, x: float, y: float, z: float) -> Vector:
    """Turn a world vector into part i's axes and divide by its half sizes."""
    c, s, cp, sp = rows[i, _COS], rows[i, _SIN], rows[i, _CP], rows[i, _SP]
    fx, fy = c * x + s * y, c * y - s * x
    return (cp * fx + sp * z) / rows[i, _HX], fy / rows[i, _HY], (cp * z - sp * fx) / rows[i, _HZ]


@inline
def to_world(rows: NDArray[np.float32], i: int, x: float, y: float, z: float) -> Vector:
    """Turn a vector in part i's axes (not scaled) into the world."""
    c, s, cp, sp = rows[i, _COS], rows[i, _SIN], rows[i, _CP], rows[i, _SP]
    fx, fz = cp * x - sp * z, sp * x + cp * z
    return c * fx - s * y, s * fx + c * y, fz


@inline
def _cut(n_dot_d: float, room: float, near: float, far: float) -> tuple[float, float]:
    """Clip the stretch (near, far) by a half space: n.(o + t d) <= c, with room = c - n.o."""
    if n_dot_d > 1e-12:
        return near, min(far, room / n_dot_d)
    if n_dot_d < -1e-12:
        return max(near, room / n_dot_d), far
    return (near, far) if room >= 0.0 else (MISS, -MISS)


@inline
def _tapered(rows: NDArray[np.float32], i: int, o: Vector, d: Vector) -> tuple[float, float]:
    front, rear, side = 0.5 * rows[i, _TF], 0.5 * rows[i, _TR], 0.5 * rows[i, _TS]
    near, far = _cut(d[2], 1.0 - o[2], -MISS, MISS)
    near, far = _cut(-d[2], 1.0 + o[2], near, far)
    near, far = _cut(d[0] + front * d[2], 1.0 - front - o[0] - front * o[2], near, far)
    near, far = _cut(-d[0] + rear * d[2], 1.0 - rear + o[0] - rear * o[2], near, far)
    near, far = _cut(d[1] + side * d[2], 1.0 - side - o[1] - side * o[2], near, far)
    return _cut(-d[1] + side * d[2], 1.0 - side + o[1] - side * o[2], near, far)


@inline
def _round(a: float, b: float, c: float, near: float, far: float) -> tuple[float, float]:
    """Clip by a t^2 + 2 b t + c <= 0, a > 0."""
    root = b * b - a * c
    if root < 0.0:
        return MISS, -MISS
    root = math.sqrt(root)
    return max(near, (-b - root) / a), min(far, (-b + root) / a)


@inline
def _cylinder(taper: float, o: Vector, d: Vector) -> tuple[float, float]:
    """Cylinder or frustum along z."""
    near, far = _cut(d[2], 1.0 - o[2], -MISS, MISS)
    near, far = _cut(-d[2], 1.0 + o[2], near, far)
    slope = 0.5 * taper
    radius = 1.0 - slope - slope * o[2]  # at the height of the ray's origin, changes by -slope d_z
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + slope * d[2] * radius
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    if a < 1e-12:  # steeper than the side: as a cylinder of the mean radius
        mean = 1.0 - slope
        a = d[0] * d[0] + d[1] * d[1] + 1e-12
        b = o[0] * d[0] + o[1] * d[1]
        c = o[0] * o[0] + o[1] * o[1] - mean * mean
    return _round(a, b, c, near, far)


@inline
def solid(rows: NDArray[np.float32], i: int, o: Vector, d: Vector) -> tuple[float, float]:
    """Where a ray in the part's unit frame enters and leaves the solid of part i; near > far means
    that it misses.
    """
    shape = int(rows[i, _SHAPE])
    if shape == _BOX:
        near, far = _cut(d[0], 1.0 - o[0], -MISS, MISS)
        near, far = _cut(-d[0], 1.0 + o[0], near, far)
        near, far = _cut(d[1], 1.0 - o[1], near, far)
        near, far = _cut(-d[1], 1.0 + o[1], near, far)
        near, far = _cut(d[2], 1.0 - o[2], near, far)
        return _cut(-d[2], 1.0 + o[2], near, far)
    if shape == _ELLIPSOID:
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0
        return _round(a, b, c, -MISS, MISS)
    if shape == _TAPERED:
        return _tapered(rows, i, o, d)
    if shape == _LATERAL:
        return _cylinder(0.0, (o[0], o[2], o[1]), (d[0], d[2], d[1]))
    return _cylinder(rows[i, _TS], o, d)


@inline
def leaf_cell(
    x: float, y: float, z: float, blur: float, finest: float
) -> tuple[float, float, float, float]:
    """Place in the lattice of leaves, whose cubes are turned out of every likely axis, and the cell
    size.

    Cells grow with `blur` (metres that one ray stands for), or far crowns would be salt and pepper.
    """
    cell = finest if finest > 0.0 else 0.085
    while cell < 1.3 * blur:
        cell *= 2.0
    a = 0.36 * x + 0.48 * y - 0.80 * z
    b = -0.80 * x + 0.60 * y
    c = 0.48 * x + 0.64 * y + 0.60 * z
    return a / cell, b / cell, c / cell, cell


@inline
def _leaf(
    rows: NDArray[np.float32],
    i: int,
    o: Vector,
    d: Vector,
    near: float,
    far: float,
    blur: float,
) -> float:
    """March through foliage: a hash of the leaf's cell decides whether something hangs there."""
    hx, hy, hz = rows[i, _HX], rows[i, _HY], rows[i, _HZ]
    ax, ay, az = d[0] * hx, d[1] * hy, d[2] * hz
    length = math.sqrt(ax * ax + ay * ay + az * az)
    density = rows[i, _A] if rows[i, _A] > 0.0 else 0.5
    seed = int(rows[i, _U] * 65536.0)
    round_shape = int(rows[i, _SHAPE]) == _ELLIPSOID
    _, _, _, cell = leaf_cell(0.0, 0.0, 0.0, blur, rows[i, _B])
    step = 0.9 * cell / length
    t = near + 0.5 * step
    for _ in range(16):
        if t > far:
            return MISS
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        if round_shape:  # thin at the rim, so that the outline is ragged
            inside = 1.0 - (x * x + y * y + z * z)
        else:
            inside = min(min(1.0 - abs(x), 1.0 - abs(y)), 1.0 - abs(z)) * 2.0
        a, b, c, _ = leaf_cell(x * hx, y * hy, z * hz, blur, rows[i, _B])
        fa, fb, fc = math.floor(a), math.floor(b), math.floor(c)
        clump = uniform(
            math.floor(0.25 * fa),
            math.floor(0.25 * fb),
            math.floor(0.25 * fc) + 7919 * seed,
        )
        limit = density * min(1.0, 0.22 + 2.2 * inside) * (0.40 + 1.2 * clump)
        if uniform(int(fa), int(fb), int(fc) + 104729 * seed) < limit:
            return t
        t += step
    return t if t < far else MISS


@inline
def _spoke(x: float, z: float) -> bool:
    """True where a bicycle wheel has substance: tyre, hub or one of 14 spokes; x, z in the unit
    disc.
    """
    radius = math.sqrt(x * x + z * z)
    if radius > 0.87 or radius < 0.1:
        return True
    turn = math.atan2(z, x) * (14.0 / (2.0 * math.pi))
    off = abs(turn - math.floor(turn) - 0.5) * (2.0 * math.pi / 14.0) * radius
    return off < 0.022


@inline
def cast_unit(rows: NDArray[np.float32], i: int, o: Vector, d: Vector, blur: float) -> float:
    """First hit of a ray with part i, with holes and leaves, or MISS.

    Args:
        rows: parts.
        i: which.
        o: ray origin in the unit frame.
        d: ray direction in the unit frame.
        blur: width that the ray stands for at the part [m].

    Returns:
        t > 0 along the given direction. A ray that starts inside the part does not see it.
    """
    near, far = solid(rows, i, o, d)
    if near > far or near <= 1e-4:
        return MISS
    material = int(rows[i, _MATERIAL])
    if material < _LEAVES:
        return near
    if material == _LEAVES:
        return _leaf(rows, i, o, d, near, far, blur)
    if material == _SPOKES:
        if blur > 0.06:  # a far wheel: half of the rays
            x, z = o[0] + near * d[0], o[2] + near * d[2]
            return near if x * x + z * z > 0.6 or abs(x) < 0.12 else MISS
        if _spoke(o[0] + near * d[0], o[2] + near * d[2]):
            return near
        return MISS
    if material == _MESH:
        x, z = (o[0] + near * d[0]) * rows[i, _HX], o[2] + near * d[2]
        pitch = rows[i, _A]
        bar = abs(x / pitch - math.floor(x / pitch) - 0.5)
        return near if bar < 0.13 or abs(z) > 0.88 or abs(z) < 0.06 else MISS
    return near


@kernel
def cast(
    rows: NDArray[np.float32], i: int, origin: Vector, direction: Vector, blur: float
) -> float:
    """As `cast_unit` for a ray in the world."""
    o = to_part(rows, i, origin[0] - rows[i, _X], origin[1] - rows[i, _Y], origin[2] - rows[i, _Z])
    return cast_unit(rows, i, o, to_part(rows, i, direction[0], direction[1], direction[2]), blur)


@inline
def normal_at(rows: NDArray[np.float32], i: int, x: float, y: float, z: float) -> Vector:
    """Outward unit normal (in the part's own axes) at a surface point given in the unit frame."""
    shape = int(rows[i, _SHAPE])
    hx, hy, hz = rows[i, _HX], rows[i, _HY], rows[i, _HZ]
    nx, ny, nz = 0.0, 0.0, 0.0
    if shape == _ELLIPSOID:
        nx, ny, nz = x, y, z
    elif shape == _LATERAL:
        if abs(y) > 0.9999:
            ny = y
        else:
            nx, nz = x, z
    elif shape in (_BOX, _TAPERED):
        front, rear, side = 0.5 * rows[i, _TF], 0.5 * rows[i, _TR], 0.5 * rows[i, _TS]
        if shape == _BOX:
            front, rear, side = 0.0, 0.0, 0.0
        # The face whose plane the point lies on: the largest of the six "n.p - c" (all <= 0
        # inside).
        best = abs(z) - 1.0
        nz = 1.0 if z > 0.0 else -1.0
        for k in range(4):
            if k < 2:
                sign, slant = (1.0, front) if k == 0 else (-1.0, rear)
                gap = sign * x + slant * z - 1.0 + slant
            else:
                sign, slant = (1.0 if k == 2 else -1.0), side
                gap = sign * y + slant * z - 1.0 + slant
            if gap > best:
                best, nz = gap, slant
                nx, ny = (sign, 0.0) if k < 2 else (0.0, sign)
    elif abs(z) > 0.9999:
        nz = z
    else:
        nx, ny, nz = x, y, 0.5 * rows[i, _TS] * (1.0 - rows[i, _TS] * 0.5 * (z + 1.0))
    nx, ny, nz = nx / hx, ny / hy, nz / hz
    size = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-30
    return nx / size, ny / size, nz / size
