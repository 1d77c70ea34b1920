"""Light and air of a scene: sun, clouds, night, fog."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What the sensors need to know about light and air. Hashable, so that skies can be cached.

    Attributes:
        night: no sun, headlights and lit windows.
        fog: extinction of the air in 1/m; 0 is clear, 0.02 hides things at about 100 m.
        sun_azimuth_rad: direction towards the sun, counter-clockwise from east.
        sun_elevation_rad: height of the sun above the horizon.
        cloud_cover: 0 (blue) .. 1 (overcast: weak sun, strong sky light).
        seed: number of the cloud pattern.
    """

    night: bool = False
    fog: float = 0.0
    sun_azimuth_rad: float = 0.7
    sun_elevation_rad: float = 0.8
    cloud_cover: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fog) and 0.0 <= self.fog <= 1.0):
            raise ValueError(f"fog is an extinction in 1/m between 0 and 1, got {self.fog}")
        if not 0.05 <= self.sun_elevation_rad <= math.pi / 2:
            raise ValueError(
                "sun_elevation_rad must lie in [0.05, pi/2] (use night=True for no sun), got "
                f"{self.sun_elevation_rad}"
            )
        if not 0.0 <= self.cloud_cover <= 1.0:
            raise ValueError(f"cloud_cover must lie in [0, 1], got {self.cloud_cover}")

    @classmethod
    def from_seed(cls, seed: int, *, night: bool = False, fog: float = 0.0) -> Weather:
        """Draw sun and clouds from a seed; night and fog are the caller's choice.

        Args:
            seed: any whole number >= 0.
            night: see the attribute.
            fog: see the attribute [1/m].

        Returns:
            A weather with the sun 25 to 65 degrees high.
        """
        rng = np.random.default_rng([seed, 0x5A17])
        return cls(
            night=night,
            fog=float(fog),
            sun_azimuth_rad=float(rng.uniform(-math.pi, math.pi)),
            sun_elevation_rad=float(rng.uniform(math.radians(25), math.radians(65))),
            cloud_cover=float(np.clip(rng.beta(1.6, 1.6), 0.05, 0.95)),
            seed=int(seed),
        )

    @property
    def sun_direction(self) -> tuple[float, float, float]:
        """Unit vector towards the sun in the world frame."""
        c = math.cos(self.sun_elevation_rad)
        return (
            c * math.cos(self.sun_azimuth_rad),
            c * math.sin(self.sun_azimuth_rad),
            math.sin(self.sun_elevation_rad),
        )

    @property
    def sun_light(self) -> float:
        """Strength of direct sunlight (about 1 on a clear day, 0 at night)."""
        if self.night:
            return 0.0
        overcast = max(0.0, (self.cloud_cover - 0.6) / 0.4)
        return (1.0 - 0.75 * overcast) * math.exp(-18.0 * self.fog)

    @property
    def sky_light(self) -> float:
        """Strength of light from the whole sky."""
        if self.night:
            return 0.045
        overcast = max(0.0, (self.cloud_cover - 0.6) / 0.4)
        return 0.25 + 0.20 * overcast + 0.2 * min(1.0, 25.0 * self.fog)
