"""How fast the town's sensors are on this machine, on one core, on a small street of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town import camera, catalogue, lidar, rig, shadows
from perception3d.datasets.town.primitives import Material, Rows, place
from perception3d.datasets.town.weather import Weather

_RAYS = rig.NUM_COLUMNS_OF_A_TURN * rig.NUM_RINGS


@dataclass(frozen=True, kw_only=True)
class SensorSpeed:
    """Processor time of one core, median of several runs.

    Attributes:
        rows: parts in the street.
        sweep_ms: one whole turn of the LiDAR.
        rays_per_s: its 34,688 rays over that time.
        camera_ms: six pictures by image scale, without JPEG.
        compile_s: first calls, which compile or load the kernels.
    """

    rows: int
    sweep_ms: float
    rays_per_s: float
    camera_ms: dict[float, float]
    compile_s: float


@dataclass(frozen=True)
class _Field:
    """A square of asphalt as ground."""

    colour: NDArray[np.uint8]
    material: NDArray[np.uint8]
    origin_xy_m: tuple[float, float]
    cell_m: float


def measure(image_scales: tuple[float, ...] = (0.25, 1.0), repeats: int = 5) -> SensorSpeed:
    """Time the LiDAR and the cameras on a street of houses, trees, cars and walkers.

    Args:
        image_scales: sizes to render, as in rig.scaled.
        repeats: runs of which the median counts.

    Returns:
        The figures.
    """
    ground, rows, weather = _asphalt(), _street(), Weather.from_seed(0)
    pose = (120.0, 120.0, 0.0)
    poses = _standing(pose)
    prepared = camera.prepare_ground(ground)
    mask = shadows.static_mask(rows, ground, weather)

    def sweep() -> None:
        lidar.sweep(rows, rows[:0], ground, poses, weather, 1)

    def pictures(scale: float) -> Callable[[], None]:
        def six() -> None:
            for view in rig.scaled(scale):
                camera.render(rows, prepared, mask, view, pose, weather, 1)

        return six

    started = time.perf_counter()
    sweep()
    pictures(0.25)()
    compile_s = time.perf_counter() - started
    sweep_s = _median(sweep, 4 * repeats)
    camera_ms = {scale: 1e3 * _median(pictures(scale), repeats) for scale in image_scales}
    return SensorSpeed(
        rows=len(rows),
        sweep_ms=1e3 * sweep_s,
        rays_per_s=_RAYS / sweep_s,
        camera_ms=camera_ms,
        compile_s=compile_s,
    )


def street_sweep(x_m: float, seed: int) -> NDArray[np.float32]:
    """(P, 5) one turn of the LiDAR on that street, in its own frame, without the own car's points.

    Args:
        x_m: where the vehicle stands, 20 to 220 along the street.
        seed: of the noise.
    """
    poses = _standing((x_m, 120.0, 0.0))
    rows = _street()
    points, _ = lidar.sweep(rows, rows[:0], _asphalt(), poses, Weather.from_seed(0), seed)
    return points[np.abs(points[:, :2]).max(axis=1) > 1.0]


def _asphalt() -> _Field:
    return _Field(
        np.full((2400, 2400, 3), 110, np.uint8),
        np.full((2400, 2400), Material.ASPHALT, np.uint8),
        (0.0, 0.0),
        0.1,
    )


def _standing(pose: tuple[float, float, float]) -> NDArray[np.float64]:
    """The pose of each column of a turn of a vehicle that does not move."""
    return np.tile(np.array(pose), (rig.NUM_COLUMNS_OF_A_TURN, 1))


def _median(work: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return float(np.median(seconds))


def _street() -> Rows:
    """A straight street along x through (120, 120)."""
    rng = np.random.default_rng(0)
    found: list[Rows] = []
    for side in (-1, 1):
        for kind, away, step in (
            ("house", 26.0, 24.0),
            ("tree", 11.5, 13.0),
            ("car", 8.4, 7.0),
            ("pedestrian", 12.5, 9.0),
            ("kerb", 9.6, 4.0),
        ):
            for x in np.arange(20.0, 220.0, step):
                parts = catalogue.parts(
                    kind, catalogue.size_of(kind, rng), int(rng.integers(1 << 30)), phase=x
                )
                owner = len(found) if kind in catalogue.ANNOTATED_KINDS else -1
                found.append(place(parts, (x, 120.0 + side * away), 0.0, owner=owner))
    return np.concatenate(found)
