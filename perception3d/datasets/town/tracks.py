"""Motion as a path and a distance along it: poses of an object at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.planar import Points


@dataclass(frozen=True, kw_only=True)
class Track:
    """An object that follows a path; between the steps of the simulation its distance is a cubic
    Hermite curve.

    The heading comes from two points of the path, before and behind the centre, so long bodies cut
    corners as they do.

    Attributes:
        path_m: (n, 2) world polyline; a standing object has one point.
        arc_m: (n,) distance at each of its points (of the lane's middle, for who drives beside it).
        times_s: (t,) steps of the simulation.
        distance_m: (t,) of the body's centre along the path.
        speed_mps: (t,) along the path, negative for walking it backwards.
        base_m: distance between the two points that give the heading.
        yaw_rad: heading of a standing object.
    """

    path_m: Points
    arc_m: NDArray[np.float64]
    times_s: NDArray[np.float64]
    distance_m: NDArray[np.float64]
    speed_mps: NDArray[np.float64]
    base_m: float = 1.0
    yaw_rad: float = 0.0

    @classmethod
    def standing(cls, pose: tuple[float, float, float]) -> Track:
        """An object that never moves."""
        zero = np.zeros(1)
        return cls(
            path_m=np.array([pose[:2]], np.float64),
            arc_m=zero,
            times_s=zero,
            distance_m=zero,
            speed_mps=zero,
            yaw_rad=float(pose[2]),
        )

    @property
    def is_standing(self) -> bool:
        """Whether it has one pose for ever."""
        return len(self.path_m) == 1

    def distances(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance along the path at times (t,) within the simulation [m]."""
        knots, d, v = self.times_s, self.distance_m, self.speed_mps
        k = np.clip(np.searchsorted(knots, times_s, side="right") - 1, 0, len(knots) - 2)
        h = knots[k + 1] - knots[k]
        u = (times_s - knots[k]) / h
        d0, d1 = d[k], d[k + 1]
        m0, m1 = h * v[k], h * v[k + 1]
        cubic = 2 * d0 - 2 * d1 + m0 + m1
        square = -3 * d0 + 3 * d1 - 2 * m0 - m1
        value: NDArray[np.float64] = ((cubic * u + square) * u + m0) * u + d0
        return value

    def poses(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Poses at times.

        Args:
            times_s: (t,) within the simulated time.

        Returns:
            (t, 3) x [m], y [m], yaw [rad].
        """
        times_s = np.atleast_1d(np.asarray(times_s, np.float64))
        if self.is_standing:
            pose = np.array([*self.path_m[0], self.yaw_rad])
            return np.tile(pose, (len(times_s), 1))
        s = self.arc_m
        d = self.distances(times_s)
        front = self._at(s, d + self.base_m / 2)
        rear = self._at(s, d - self.base_m / 2)
        ahead = front - rear
        middle = (front + rear) / 2
        return np.concatenate([middle, np.arctan2(ahead[:, 1], ahead[:, 0])[:, None]], 1)

    def speed(self, time_s: float, step_s: float = 0.05) -> float:
        """Mean speed around a time, without sign [m/s]."""
        if self.is_standing:
            return 0.0
        low, high = self.times_s[0], self.times_s[-1]
        t = np.clip(np.array([time_s - step_s, time_s + step_s]), low, high)
        d = self.distances(t)
        return float(abs(d[1] - d[0]) / max(t[1] - t[0], 1e-9))

    def velocity(self, time_s: float, step_s: float = 0.025) -> tuple[float, float]:
        """World velocity of the centre at a time [m/s]."""
        if self.is_standing:
            return (0.0, 0.0)
        low, high = self.times_s[0], self.times_s[-1]
        t = np.clip(np.array([time_s - step_s, time_s + step_s]), low, high)
        p = self.poses(t)
        dt = max(float(t[1] - t[0]), 1e-9)
        return (float(p[1, 0] - p[0, 0]) / dt, float(p[1, 1] - p[0, 1]) / dt)

    def _at(self, s: NDArray[np.float64], d: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the path at distances, going straight on beyond its ends."""
        xy = np.stack([np.interp(d, s, self.path_m[:, 0]), np.interp(d, s, self.path_m[:, 1])], 1)
        for end, inner, over in (
            (0, 1, np.minimum(d - s[0], 0)),
            (-1, -2, np.maximum(d - s[-1], 0)),
        ):
            tangent = self.path_m[end] - self.path_m[inner]
            tangent = tangent / np.linalg.norm(tangent)
            xy += tangent * np.abs(over)[:, None]
        return xy
