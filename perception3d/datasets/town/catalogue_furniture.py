"""Street furniture without boxes: posts, lamps, signs, bins, benches, hedges, walls, kerbs."""

from __future__ import annotations

import math

import numpy as np

from perception3d.datasets.town.catalogue_cars import Colour, Parts
from perception3d.datasets.town.catalogue_people import bar
from perception3d.datasets.town.primitives import Material, Shape, part

_DARK: Colour = (0.14, 0.14, 0.15)
_STEEL: Colour = (0.55, 0.56, 0.57)

Size = tuple[float, float, float]


def bollard(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A steel or plastic post with a light band: as tall as a cone, never orange."""
    radius, top = min(size_lwh_m[:2]) / 2, size_lwh_m[2]
    colour = ((0.62, 0.63, 0.64), (0.12, 0.12, 0.13), (0.75, 0.62, 0.10), (0.30, 0.33, 0.30))[
        int(rng.integers(4))
    ]
    return [
        part(
            Shape.CYLINDER,
            (0, 0, top / 2 - 0.03),
            (0.8 * radius, 0.8 * radius, top / 2 - 0.03),
            colour,
            Material.METAL,
        ),
        part(
            Shape.ELLIPSOID,
            (0, 0, top - 0.06),
            (0.8 * radius, 0.8 * radius, 0.06),
            colour,
            Material.METAL,
        ),
        part(
            Shape.CYLINDER,
            (0, 0, 0.8 * top),
            (0.82 * radius, 0.82 * radius, 0.04),
            (0.85, 0.85, 0.8),
            Material.PLASTIC,
        ),
    ]


def hydrant(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A red or yellow fire hydrant."""
    radius, top = min(size_lwh_m[:2]) / 2, size_lwh_m[2]
    colour = ((0.72, 0.08, 0.06), (0.85, 0.66, 0.08))[int(rng.integers(2))]
    return [
        part(
            Shape.CYLINDER,
            (0, 0, 0.42 * top),
            (0.52 * radius, 0.52 * radius, 0.42 * top),
            colour,
            Material.METAL,
        ),
        part(
            Shape.ELLIPSOID,
            (0, 0, 0.84 * top),
            (0.6 * radius, 0.6 * radius, 0.16 * top),
            colour,
            Material.METAL,
        ),
        part(
            Shape.LATERAL,
            (0, 0, 0.62 * top),
            (0.26 * radius, radius, 0.26 * radius),
            colour,
            Material.METAL,
        ),
        part(
            Shape.CYLINDER,
            (0, 0, 0.05),
            (0.75 * radius, 0.75 * radius, 0.05),
            colour,
            Material.METAL,
        ),
    ]


def litter_bin(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A round litter bin with a lid."""
    radius, top = min(size_lwh_m[:2]) / 2, size_lwh_m[2]
    colour = ((0.12, 0.25, 0.16), (0.20, 0.20, 0.22), (0.16, 0.25, 0.42))[int(rng.integers(3))]
    return [
        part(
            Shape.CYLINDER,
            (0, 0, 0.42 * top),
            (0.92 * radius, 0.92 * radius, 0.42 * top),
            colour,
            Material.PLASTIC,
        ),
        part(
            Shape.CYLINDER,
            (0, 0, 0.87 * top),
            (0.85 * radius, 0.85 * radius, 0.05 * top),
            (0.03, 0.03, 0.03),
            Material.PLASTIC,
        ),
        part(
            Shape.CYLINDER,
            (0, 0, 0.95 * top),
            (radius, radius, 0.05 * top),
            colour,
            Material.PLASTIC,
            taper=(0, 0, 0.3),
        ),
    ]


def pole(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A bare pole."""
    radius, top = min(size_lwh_m[:2]) / 2, size_lwh_m[2]
    return [
        part(
            Shape.CYLINDER,
            (0, 0, top / 2),
            (radius, radius, top / 2),
            (0.50, 0.50, 0.49),
            Material.CONCRETE,
            taper=(0, 0, 0.35),
        )
    ]


def street_light(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A lamp post whose arm reaches along +x."""
    arm, top = size_lwh_m[0], size_lwh_m[2]
    return [
        part(
            Shape.CYLINDER,
            (0, 0, top / 2),
            (0.10, 0.10, top / 2),
            _STEEL,
            Material.METAL,
            taper=(0, 0, 0.45),
        ),
        part(Shape.CYLINDER, (0, 0, 0.4), (0.14, 0.14, 0.4), _STEEL, Material.METAL),
        bar((0.0, top - 0.35), (0.55 * arm, top - 0.06), 0.05, _STEEL, Material.METAL),
        bar((0.52 * arm, top - 0.06), (arm - 0.3, top), 0.045, _STEEL, Material.METAL),
        part(
            Shape.TAPERED,
            (arm - 0.05, 0, top),
            (0.36, 0.14, 0.05),
            (0.7, 0.7, 0.7),
            Material.STREET_LAMP,
            taper=(0.3, 0.3, 0.3),
        ),
    ]


def traffic_light(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A signal post whose lenses face +x; the colour of the lit lens is drawn."""
    top = size_lwh_m[2]
    lit = float(rng.integers(3))
    found = [
        part(
            Shape.CYLINDER,
            (-0.12, 0, top / 2 - 0.1),
            (0.065, 0.065, top / 2 - 0.1),
            (0.25, 0.26, 0.26),
            Material.METAL,
        ),
        part(
            Shape.BOX,
            (0.06, 0, top - 0.55),
            (0.12, 0.17, 0.50),
            (0.03, 0.03, 0.03),
            Material.SIGNAL,
            a=lit,
        ),
        part(
            Shape.BOX,
            (-0.07, 0, top - 0.55),
            (0.01, 0.26, 0.60),
            (0.03, 0.03, 0.03),
            Material.PLASTIC,
        ),
        part(
            Shape.BOX,
            (0.04, 0, 2.35),
            (0.10, 0.12, 0.26),
            (0.03, 0.03, 0.03),
            Material.SIGNAL,
            a=0.0 if lit == 2.0 else 2.0,
        ),
    ]
    return found


def hedge(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A cut hedge."""
    half, side, top = size_lwh_m[0] / 2, size_lwh_m[1] / 2, size_lwh_m[2]
    green = (
        float(rng.uniform(0.25, 0.34)),
        float(rng.uniform(0.36, 0.45)),
        float(rng.uniform(0.18, 0.25)),
    )
    found = [
        part(
            Shape.BOX,
            (0, 0, 0.47 * top),
            (half * 0.98, 0.86 * side, 0.47 * top),
            green,
            Material.LEAVES,
            u=float(rng.random()),
            a=0.85,
            b=0.07,
        )
    ]
    for _ in range(max(2, int(half / 0.7))):
        x = float(rng.uniform(-0.85, 0.85)) * half
        size = float(rng.uniform(0.75, 1.0))
        found.append(
            part(
                Shape.ELLIPSOID,
                (x, 0, 0.62 * top),
                (0.7 * size, side * size, 0.40 * top * size),
                green,
                Material.LEAVES,
                u=float(rng.random()),
                a=0.8,
                b=0.07,
            )
        )
    return found


def sign_post(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A small traffic sign facing +x."""
    width, top = min(0.7, size_lwh_m[1]) / 2, size_lwh_m[2]
    style = int(rng.integers(1, 6))
    board_z = top - 0.85 * width
    size = 0.85 * width
    found = [
        part(Shape.CYLINDER, (-0.035, 0, top / 2), (0.03, 0.03, top / 2), _STEEL, Material.METAL)
    ]
    if style in (1, 2, 5):  # round
        pitch = math.pi / 2
        found.append(
            part(
                Shape.CYLINDER,
                (0, 0, board_z),
                (size, size, 0.012),
                (1, 1, 1),
                Material.RETRO,
                pitch=pitch,
                a=float(style),
            )
        )
    else:
        found.append(
            part(
                Shape.BOX,
                (0, 0, board_z),
                (0.012, size, 1.2 * size),
                (1, 1, 1),
                Material.RETRO,
                a=float(style),
            )
        )
    return found


def retro_sign(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A large direction board facing +x on two posts."""
    side, top = size_lwh_m[1] / 2, size_lwh_m[2]
    found = [
        part(
            Shape.BOX,
            (0.05, 0, top - 0.5),
            (0.02, side, 0.5),
            (1, 1, 1),
            Material.RETRO,
            a=0.0 if rng.random() < 0.7 else 3.0,
        )
    ]
    for s in (-0.6, 0.6):
        found.append(
            part(
                Shape.CYLINDER,
                (0, s * side, top / 2),
                (0.04, 0.04, top / 2),
                _STEEL,
                Material.METAL,
            )
        )
    return found


def low_wall(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A garden wall with a coping: as long and high as barriers, but stone."""
    half, side, top = size_lwh_m[0] / 2, size_lwh_m[1] / 2, size_lwh_m[2]
    stone = ((0.58, 0.55, 0.50), (0.52, 0.32, 0.25), (0.66, 0.64, 0.60))[int(rng.integers(3))]
    return [
        part(
            Shape.BOX,
            (0, 0, top / 2 - 0.04),
            (half, 0.82 * side, top / 2 - 0.04),
            stone,
            Material.CONCRETE,
        ),
        part(
            Shape.BOX, (0, 0, top - 0.04), (half, side, 0.04), (0.55, 0.54, 0.52), Material.CONCRETE
        ),
    ]


def bench(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A park bench along x, its back at -y."""
    half, side, top = size_lwh_m[0] / 2, size_lwh_m[1] / 2, size_lwh_m[2]
    wood = ((0.46, 0.32, 0.20), (0.30, 0.22, 0.16), (0.42, 0.42, 0.40))[int(rng.integers(3))]
    found = [
        part(Shape.BOX, (0, 0.05, 0.45), (half, 0.75 * side, 0.025), wood, Material.WOOD),
        part(Shape.BOX, (0, -0.85 * side, top - 0.2), (half, 0.025, 0.18), wood, Material.WOOD),
    ]
    for s in (-0.8, 0.8):
        found.append(
            part(Shape.BOX, (s * half, 0, 0.22), (0.03, 0.8 * side, 0.22), _DARK, Material.METAL)
        )
        found.append(
            part(
                Shape.BOX,
                (s * half, -0.85 * side, top / 2),
                (0.03, 0.03, top / 2),
                _DARK,
                Material.METAL,
            )
        )
    return found


def fence(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """Railings along x."""
    half, top = size_lwh_m[0] / 2, size_lwh_m[2]
    colour = ((0.12, 0.14, 0.13), (0.60, 0.61, 0.62), (0.15, 0.28, 0.20))[int(rng.integers(3))]
    found = [part(Shape.BOX, (0, 0, top / 2), (half, 0.02, top / 2), colour, Material.MESH, a=0.14)]
    for s in (-1.0, 1.0):
        found.append(
            part(Shape.BOX, (s * half, 0, top / 2), (0.035, 0.035, top / 2), colour, Material.METAL)
        )
    return found


def kerb(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A kerb stone row along x, grey or painted black and white in blocks of a metre."""
    half, side, top = size_lwh_m[0] / 2, size_lwh_m[1] / 2, size_lwh_m[2]
    painted = rng.random() < 0.5
    colour = (0.86, 0.86, 0.84) if painted else (0.60, 0.59, 0.57)
    return [
        part(
            Shape.BOX,
            (0, 0, top / 2),
            (half, side, top / 2),
            colour,
            Material.KERB,
            a=1.0 if painted else 0.0,
        )
    ]


def poster(size_lwh_m: Size, rng: np.random.Generator) -> Parts:
    """A lit advertisement panel facing +x and -x."""
    side, top = size_lwh_m[1] / 2, size_lwh_m[2]
    return [
        part(
            Shape.BOX,
            (0, 0, (0.4 + top) / 2),
            (0.09, side, (top - 0.4) / 2),
            (0.1, 0.1, 0.1),
            Material.POSTER,
            u=float(rng.random()),
        ),
        part(Shape.BOX, (0, 0, 0.2), (0.07, 0.4 * side, 0.2), _DARK, Material.METAL),
    ]
