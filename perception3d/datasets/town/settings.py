"""What a town is made of: the knobs, the scenes that follow from them, and the random streams.

Everything in a town follows from a `TownSettings` value. Each use of randomness has its own stream,
named by meaning (for example `("scene", 3, "traffic")`), so that the order in which scenes are
made, or the number of processes, changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Raised whenever the same settings would give other bytes: a folder made by another version is
# refused, not mixed.
GENERATOR_VERSION = "2"

TRAIN_SPLIT = "town_train"
VAL_SPLIT = "town_val"
MAX_DISTRICTS = (
    48  # 8 x 6 districts of 340 m fit the canvas that the devkit hard-codes for the location
)
KEY_FRAME_HZ = 2
SWEEP_HZ = 20
CAMERA_HZ = 12


@dataclass(frozen=True, kw_only=True)
class ClassQuotas:
    """How much of each class is placed beside the route of the recording car, relative to the
    default.

    0 leaves the class out of the placed objects (it can still drive by), 2 places about twice as
    many.

    Attributes:
        truck: standing lorries and vans.
        bus: buses at stops and in yards.
        trailer: parked trailers.
        construction_vehicle: excavators, loaders, rollers.
        motorcycle: parked motorcycles.
        bicycle: bicycles without a rack.
        barrier: rows of barriers.
        traffic_cone: rows of cones.
        pedestrian: people standing, sitting and working.
        ignored: animals, strollers, debris, police cars and other boxes outside the ten classes.
        distractor: bollards, bins, posts, hedges, hydrants and low walls, which get no box.
    """

    truck: float = 1.0
    bus: float = 1.0
    trailer: float = 1.0
    construction_vehicle: float = 1.0
    motorcycle: float = 1.0
    bicycle: float = 1.0
    barrier: float = 1.0
    traffic_cone: float = 1.0
    pedestrian: float = 1.0
    ignored: float = 1.0
    distractor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TownSettings:
    """The knobs of a town. Two equal values give the same bytes in one environment.

    Attributes:
        seed: number of the town; another seed gives other streets, traffic and looks.
        train_scenes: scenes of the split `town_train`.
        val_scenes: scenes of the split `town_val`.
        scene_length_s: length of a scene [s]; a key frame every 0.5 s.
        train_districts: districts (340 m x 340 m each) that the training scenes drive through.
        val_districts: other districts, for the held-out scenes.
        density: traffic, parked cars and walkers relative to the default.
        night_share: share of scenes at night.
        fog_share: share of scenes in fog.
        image_scale: image size relative to 1600 x 900.
        keep_sweep_every: keep every n-th LiDAR sweep between key frames (1 = all, 20 Hz).
        camera_sweeps: also write images between key frames, at 12 Hz.
        quotas: objects placed beside the route, by class.
        min_boxes_per_class: boxes with LiDAR points within their class's range that each split must
            hold of each of the ten classes, or the town is refused; 0 takes any town. It judges a
            town and changes no byte of it.
    """

    seed: int = 0
    train_scenes: int = 12
    val_scenes: int = 4
    scene_length_s: float = 10.0
    train_districts: int = 4
    val_districts: int = 2
    density: float = 1.0
    night_share: float = 0.15
    fog_share: float = 0.15
    image_scale: float = 0.25
    keep_sweep_every: int = 2
    camera_sweeps: bool = False
    quotas: ClassQuotas = field(default_factory=ClassQuotas)
    min_boxes_per_class: int = 20

    def __post_init__(self) -> None:
        """Refuse values that cannot make a town.

        Raises:
            ValueError: names the knob, what was found and what is allowed.
        """
        _check("seed", self.seed, self.seed >= 0, "a whole number >= 0")
        _check("train_scenes", self.train_scenes, self.train_scenes >= 0, ">= 0")
        _check("val_scenes", self.val_scenes, self.val_scenes >= 0, ">= 0")
        total = self.train_scenes + self.val_scenes
        _check("train_scenes + val_scenes", total, 1 <= total <= 9999, "between 1 and 9999")
        _check("scene_length_s", self.scene_length_s, 1 <= self.scene_length_s <= 120, "1 to 120 s")
        _check("density", self.density, 0 <= self.density <= 3, "0 to 3")
        _check("night_share", self.night_share, 0 <= self.night_share <= 1, "0 to 1")
        _check("fog_share", self.fog_share, 0 <= self.fog_share <= 1, "0 to 1")
        _check("image_scale", self.image_scale, 0.05 <= self.image_scale <= 1, "0.05 to 1")
        is_whole = all(
            abs(n * self.image_scale - round(n * self.image_scale)) < 1e-6 for n in (1600, 900)
        )
        _check(
            "image_scale",
            self.image_scale,
            is_whole,
            "one with whole image sizes, e.g. 1, 0.5, 0.25",
        )
        every = self.keep_sweep_every
        _check("keep_sweep_every", every, 1 <= every <= 10, "1 (all) to 10 (key frames only)")
        for split, scenes, districts in (
            ("train", self.train_scenes, self.train_districts),
            ("val", self.val_scenes, self.val_districts),
        ):
            ok = districts >= 1 if scenes else districts >= 0
            _check(f"{split}_districts", districts, ok, f">= 1 for {scenes} scenes")
        total = self.train_districts + self.val_districts
        _check(
            "train_districts + val_districts", total, total <= MAX_DISTRICTS, f"<= {MAX_DISTRICTS}"
        )
        for name, value in dataclasses.asdict(self.quotas).items():
            _check(f"quotas.{name}", value, 0 <= value <= 5, "0 to 5")
        least = self.min_boxes_per_class
        _check("min_boxes_per_class", least, least >= 0, ">= 0 (0 takes any town)")

    def stamp(self) -> dict[str, Any]:
        """The settings and the generator's version as plain JSON values: the identity of the town's
        bytes (so without `min_boxes_per_class`, which changes none).
        """
        settings = dataclasses.asdict(self)
        del settings["min_boxes_per_class"]
        return {"generator_version": GENERATOR_VERSION, "settings": settings}

    @property
    def key_frames_per_scene(self) -> int:
        """Samples of a scene."""
        return max(2, round(self.scene_length_s * KEY_FRAME_HZ))


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """What is known of a scene before it is made.

    Attributes:
        index: 0-based, counted over both splits.
        name: `scene-0001` ...
        split: TRAIN_SPLIT or VAL_SPLIT.
        district: number of the district it drives through.
        night: without daylight.
        fog: extinction [1/m], 0 = clear.
    """

    index: int
    name: str
    split: str
    district: int
    night: bool
    fog: float


def plan_scenes(settings: TownSettings) -> tuple[ScenePlan, ...]:
    """The list of scenes: training first, then held out; districts in turn; night and fog by their
    exact share.

    Args:
        settings: the town.

    Returns:
        One plan a scene, in the order of the tables.
    """
    plans: list[ScenePlan] = []
    splits = (
        (TRAIN_SPLIT, settings.train_scenes, 0, settings.train_districts),
        (VAL_SPLIT, settings.val_scenes, settings.train_districts, settings.val_districts),
    )
    for split, count, first_district, districts in splits:
        rng = stream(settings, "weather", split)
        night_rank = rng.permutation(count)
        fog_rank = rng.permutation(count)
        fog = rng.uniform(0.008, 0.03, count)
        for k in range(count):
            index = len(plans)
            is_foggy = fog_rank[k] < round(settings.fog_share * count)
            plans.append(
                ScenePlan(
                    index=index,
                    name=f"scene-{index + 1:04d}",
                    split=split,
                    district=first_district + k % districts,
                    night=bool(night_rank[k] < round(settings.night_share * count)),
                    fog=float(fog[k]) if is_foggy else 0.0,
                )
            )
    return tuple(plans)


def stream(settings: TownSettings, *names: str | int) -> np.random.Generator:
    """A random stream of its own for each purpose.

    Args:
        settings: gives the seed.
        names: what the numbers are for, e.g. "scene", 3, "traffic".

    Returns:
        A generator that depends on nothing else.
    """
    return np.random.default_rng(number(settings, *names))


def number(settings: TownSettings, *names: str | int) -> int:
    """A 63-bit number from the seed and a meaningful name (for libraries that want a seed)."""
    text = "/".join([str(settings.seed), *map(str, names)])
    return int.from_bytes(hashlib.md5(text.encode()).digest()[:8], "little") >> 1


def _check(name: str, value: object, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise ValueError(f"town setting {name} must be {allowed}, found {value!r}")
