"""People: walkers, seated riders, dogs."""

from __future__ import annotations

import math

import numpy as np

from perception3d.datasets.town.catalogue_cars import FOOT_M, MARGIN_M, Colour, Parts, tilt_between
from perception3d.datasets.town.primitives import Material, Shape, part

TOPS: tuple[Colour, ...] = (
    (0.85, 0.85, 0.84), (0.12, 0.12, 0.14), (0.20, 0.30, 0.55), (0.62, 0.15, 0.14), (0.25, 0.42,
    0.28),
    (0.82, 0.68, 0.25), (0.45, 0.45, 0.48), (0.55, 0.38, 0.55), (0.70, 0.72, 0.20), (0.30, 0.55,
    0.60),
)  # fmt: skip
_BOTTOMS: tuple[Colour, ...] = (
    (0.13, 0.15, 0.24), (0.08, 0.08, 0.09), (0.35, 0.33, 0.30), (0.50, 0.45, 0.36), (0.20, 0.26,
    0.36)
)  # fmt: skip
_SKINS: tuple[Colour, ...] = (
    (0.86, 0.68, 0.57),
    (0.78, 0.58, 0.44),
    (0.58, 0.40, 0.28),
    (0.38, 0.26, 0.19),
)
_HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.07),
    (0.25, 0.16, 0.09),
    (0.50, 0.38, 0.20),
    (0.55, 0.54, 0.52),
)
_VEST: Colour = (0.92, 0.78, 0.10)
_ORANGE: Colour = (0.95, 0.42, 0.08)


def bar(
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    colour: Colour,
    material: Material,
    y: float = 0.0,
    a: float = 0.0,
) -> list[float]:
    """A round bar between two points (x, z) in the plane y = const."""
    x, z, half, pitch = tilt_between(start, end)
    # The cylinder's axis is z: tilt it by the rest to a right angle.
    return part(
        Shape.CYLINDER,
        (x, y, z),
        (radius, radius, half),
        colour,
        material,
        pitch=pitch - math.pi / 2,
        a=a,
    )


def _limb(
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    colour: Colour,
    material: Material,
    y: float,
) -> list[float]:
    """A limb: an ellipsoid a little longer than the way from joint to joint."""
    x, z, half, pitch = tilt_between(start, end)
    return part(
        Shape.ELLIPSOID, (x, y, z), (1.12 * half, radius, radius), colour, material, pitch=pitch
    )


def pick(palette: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    """One colour of a palette."""
    return palette[int(rng.integers(len(palette)))]


def _head(
    x: float, y: float, z: float, size: float, rng: np.random.Generator, skin: Colour, cover: str
) -> Parts:
    """Head whose middle is at (x, y, z), with hair, cap or helmet; ends 1.15 size above."""
    found = [
        part(Shape.ELLIPSOID, (x, y, z), (0.86 * size, 0.72 * size, size), skin, Material.SKIN)
    ]
    if cover == "helmet":
        shell = (_ORANGE, (0.95, 0.95, 0.95), (0.9, 0.8, 0.1), (0.15, 0.15, 0.18), (0.7, 0.1, 0.1))[
            int(rng.integers(5))
        ]
        found.append(
            part(
                Shape.ELLIPSOID,
                (x - 0.08 * size, y, z + 0.42 * size),
                (1.04 * size, 0.9 * size, 0.7 * size),
                shell,
                Material.CAR_PAINT,
            )
        )
    else:
        long_hair = rng.random() < 0.35
        drop = 0.05 if long_hair else -0.32
        tall = 1.1 if long_hair else 0.76
        found.append(
            part(
                Shape.ELLIPSOID,
                (x - 0.16 * size, y, z - drop * size),
                (0.86 * size, 0.82 * size, tall * size),
                pick(_HAIRS, rng),
                Material.HAIR,
            )
        )
    return found


def _limbs(
    heights: tuple[float, float, float, float],
    widths: tuple[float, float, float],
    colours: tuple[Colour, Colour, Colour, Colour],
    swing: float,
    phase: float,
    *,
    bare_legs: bool,
) -> Parts:
    """Legs, shoes and arms of a walker: `swing` is how far the left foot is ahead."""
    base, hip, shoulder, height = heights
    half_hip, half_shoulder, stout = widths
    top, sleeve, bottom, skin = colours
    found: Parts = []
    for s in (-1.0, 1.0):
        foot = s * swing
        y = s * half_hip
        lifted = max(0.0, s * math.cos(phase)) * 0.07 * abs(math.sin(phase) if phase else 0.0)
        knee = (0.5 * foot + 0.05 + (0.06 if lifted > 0 else 0.0), base + 0.27 * height)
        ankle = (foot - 0.02, base + 0.05 + lifted)
        leg = skin if bare_legs else bottom
        found.append(_limb((0.0, hip), knee, 0.078 * stout, bottom, Material.CLOTH, y))
        found.append(
            _limb(knee, ankle, 0.058, leg, Material.SKIN if bare_legs else Material.CLOTH, y)
        )
        found.append(
            part(
                Shape.BOX,
                (ankle[0] + 0.06, y, base + 0.035 + lifted),
                (0.125, 0.045, 0.035),
                (0.10, 0.09, 0.08),
                Material.TYRE,
            )
        )
        elbow = (-0.55 * s * swing - 0.02, base + 0.62 * height)
        hand = (-0.9 * s * swing + 0.07, base + 0.48 * height)
        arm = s * (half_shoulder + 0.005)
        found.append(_limb((0.0, shoulder - 0.02), elbow, 0.05, top, Material.CLOTH, arm))
        found.append(
            _limb(
                elbow, hand, 0.042, sleeve, Material.SKIN if sleeve is skin else Material.CLOTH, arm
            )
        )
    return found


def pedestrian(
    size_lwh_m: tuple[float, float, float], rng: np.random.Generator, phase: float
) -> Parts:
    """A walker facing +x; `phase` moves legs and arms through one double step in 2 pi, 0 stands
    upright.
    """
    height = size_lwh_m[2] - MARGIN_M - FOOT_M
    reach = size_lwh_m[0] / 2 - MARGIN_M
    side = size_lwh_m[1] / 2 - MARGIN_M
    worker = rng.random() < 0.14
    skirt = not worker and rng.random() < 0.18
    top = _VEST if worker else pick(TOPS, rng)
    bottom, skin = pick(_BOTTOMS, rng), pick(_SKINS, rng)
    sleeve = skin if (not worker and rng.random() < 0.45) else top
    vest = 1.0 if worker else 0.0
    base = FOOT_M
    hip, shoulder, neck = base + 0.50 * height, base + 0.80 * height, base + 0.86 * height
    stout = float(rng.uniform(0.86, 1.16))
    half_hip = min(0.085 * stout, 0.4 * side)
    half_shoulder = min(0.19 * stout, side - 0.055)
    swing = max(0.0, min(0.26 * height / 1.7, reach - 0.17)) * math.sin(phase)
    found = _limbs(
        (base, hip, shoulder, height),
        (half_hip, half_shoulder, stout),
        (top, sleeve, bottom, skin),
        swing,
        phase,
        bare_legs=skirt,
    )
    chest = min(0.125 * stout, reach - 0.05)
    found.append(
        part(
            Shape.TAPERED,
            (0, 0, (hip + shoulder) / 2 + 0.01),
            (chest * 0.85, half_shoulder * 0.80, (shoulder - hip) / 2),
            top,
            Material.CLOTH,
            taper=(0.05, 0.05, -0.12),
            a=vest,
        )
    )
    found.append(
        part(
            Shape.ELLIPSOID,
            (0, 0, shoulder - 0.035),
            (chest * 0.85, half_shoulder, 0.085),
            top,
            Material.CLOTH,
        )
    )
    found.append(
        part(
            Shape.ELLIPSOID,
            (0, 0, hip),
            (chest * 0.95, half_shoulder * 0.78, 0.11),
            bottom,
            Material.CLOTH,
        )
    )
    if skirt:
        found.append(
            part(
                Shape.CYLINDER,
                (0, 0, hip - 0.13),
                (0.21, 0.20, 0.19),
                bottom if rng.random() < 0.5 else top,
                Material.CLOTH,
                taper=(0, 0, 0.35),
            )
        )
    size = 0.066 * height
    found.append(part(Shape.CYLINDER, (0, 0, neck - 0.01), (0.05, 0.05, 0.06), skin, Material.SKIN))
    found += _head(
        0.02, 0.0, base + height - 1.16 * size, size, rng, skin, "helmet" if worker else "hair"
    )
    if rng.random() < 0.25:
        pack = pick(TOPS, rng)
        depth = min(0.09, reach - chest - 0.02)
        found.append(
            part(
                Shape.ELLIPSOID,
                (-reach + depth, 0, shoulder - 0.2),
                (depth, 0.14, 0.22),
                pack,
                Material.CLOTH,
            )
        )
    return found


def seated(
    seat: tuple[float, float],
    grip: tuple[float, float],
    pedal: tuple[float, float],
    top_z: float,
    side: float,
    rng: np.random.Generator,
    phase: float,
    *,
    helmet: bool,
) -> Parts:
    """A person on a saddle at (x, z) with hands at `grip` and feet at `pedal`, head up to top_z."""
    top, bottom, skin = pick(TOPS, rng), pick(_BOTTOMS, rng), pick(_SKINS, rng)
    size = 0.112
    body = max(0.40, top_z - seat[1] - 2.2 * size)
    lean = min(0.38, 0.7 * (grip[0] - seat[0]))
    shoulder = (seat[0] + lean * 0.75, seat[1] + body)
    y_arm = min(0.20, side - 0.06)
    found: Parts = []
    x, z, half, pitch = tilt_between((seat[0], seat[1] - 0.02), shoulder)
    found.append(
        part(
            Shape.ELLIPSOID, (x, 0, z), (1.12 * half, 0.17, 0.13), top, Material.CLOTH, pitch=pitch
        )
    )
    for s in (-1.0, 1.0):
        turn = phase + (0.0 if s > 0 else math.pi)
        foot = (pedal[0] + 0.13 * math.cos(turn), pedal[1] + 0.13 * math.sin(turn))
        y = s * min(0.11, side - 0.09)
        middle = ((seat[0] + foot[0]) / 2, (seat[1] + foot[1]) / 2)
        knee = (middle[0] + 0.22, middle[1] + 0.06)
        found.append(_limb(seat, knee, 0.078, bottom, Material.CLOTH, y))
        found.append(_limb(knee, foot, 0.055, bottom, Material.CLOTH, y))
        found.append(
            part(
                Shape.BOX,
                (foot[0] + 0.05, y, foot[1]),
                (0.11, 0.045, 0.035),
                (0.08, 0.08, 0.08),
                Material.TYRE,
            )
        )
        elbow = ((shoulder[0] + grip[0]) / 2 + 0.0, (shoulder[1] + grip[1]) / 2 - 0.07)
        found.append(
            _limb((shoulder[0], shoulder[1] - 0.06), elbow, 0.048, top, Material.CLOTH, s * y_arm)
        )
        found.append(_limb(elbow, grip, 0.040, skin, Material.SKIN, s * y_arm))
    found += _head(
        shoulder[0] + 0.05,
        0.0,
        top_z - 1.14 * size,
        size,
        rng,
        skin,
        "helmet" if helmet else "hair",
    )
    return found


def animal(size_lwh_m: tuple[float, float, float], rng: np.random.Generator, phase: float) -> Parts:
    """A dog."""
    half, side, top = (
        size_lwh_m[0] / 2 - MARGIN_M,
        size_lwh_m[1] / 2 - MARGIN_M,
        size_lwh_m[2] - MARGIN_M,
    )
    fur = ((0.55, 0.42, 0.26), (0.12, 0.10, 0.09), (0.80, 0.76, 0.68), (0.40, 0.26, 0.15))[
        int(rng.integers(4))
    ]
    back = 0.80 * top
    found = [
        part(
            Shape.ELLIPSOID,
            (-0.08 * half, 0, back - 0.11),
            (0.66 * half, side * 0.9, 0.12),
            fur,
            Material.FUR,
        ),
        part(
            Shape.ELLIPSOID,
            (0.68 * half, 0, top - 0.11),
            (0.30 * half, 0.5 * side, 0.10),
            fur,
            Material.FUR,
        ),
        _limb(
            (-0.65 * half, back - 0.05), (-0.95 * half, back + 0.03), 0.025, fur, Material.FUR, 0.0
        ),
    ]
    for k, x in enumerate((-0.5, -0.5, 0.42, 0.42)):
        step = 0.18 * half * math.sin(phase + math.pi * (k in (0, 3)))
        found.append(
            _limb(
                (x * half, back - 0.16),
                (x * half + step, FOOT_M + 0.02),
                0.032,
                fur,
                Material.FUR,
                (0.5 if k % 2 else -0.5) * side,
            )
        )
    return found
