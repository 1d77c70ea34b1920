"""A batch without a data set: a generated street and noise in the cameras, in a model's sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.clouds import street_cloud
from perception3d.engine.experiment import Experiment
from perception3d.structures import SE3, Batch, CameraRig

VIEWS = 6
#: Seconds between the two camera frames of a model that takes two.
GAP_S = 0.5
#: Images as nuScenes has them, where a config does not change their size.
RAW_HW = (900, 1600)


def empty_dataset(folder: Path) -> Path:
    """What a config needs to find in place of nuScenes, before any sample is read."""
    version = folder / "v1.0-trainval"
    version.mkdir(parents=True)
    (version / "sample.json").write_text("[]")
    return folder


def invented_batch(
    experiment: Experiment, model: nn.Module, image_hw: tuple[int, int] | None
) -> Batch:
    """One sample with the sensors of an experiment, on the CPU.

    Args:
        experiment: says which sensors there are.
        model: one of two frames gets twice the cameras.
        image_hw: of the images; None: as the config asks for.

    Raises:
        ValueError: the config does not tell the size of its images.
    """
    generator = torch.Generator().manual_seed(0)
    cameras, lidar = experiment.modalities.camera, experiment.modalities.lidar
    points = street_cloud() if lidar else None
    images, rig = None, None
    if cameras:
        hw = _image_hw(experiment) if image_hw is None else image_hw
        frames = int(getattr(model, "frames", 1))
        shape = (1, frames * VIEWS, 3, *hw)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        rig = _rig(frames, hw)
    return Batch(
        tokens=("invented",),
        time_ns=torch.zeros(1, dtype=torch.int64),
        global_SE3_ref=(SE3.identity(),),
        ego_SE3_ref=(SE3.identity(),),
        sensor_present=torch.tensor([[lidar, cameras]]),
        points=points,
        offsets=None if points is None else torch.tensor([0, len(points)]),
        images=images,
        rig=rig,
    )


def _image_hw(experiment: Experiment) -> tuple[int, int]:
    """The size that the config's function for samples was given: its sizes have ``image_hw``."""
    given: list[Any] = list(getattr(experiment.val, "args", ()))
    for value in given:
        if hasattr(value, "image_hw"):
            return RAW_HW if value.image_hw is None else value.image_hw
    raise ValueError(f"{experiment.name} does not tell the size of its images: say --image-hw H W")


def _rig(frames: int, hw: tuple[int, int]) -> CameraRig:
    """Six cameras 1.5 m up that look outwards, for each frame."""
    height, width = hw
    K = torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])
    poses = torch.eye(4, dtype=torch.float64).repeat(VIEWS, 1, 1)
    for view in range(VIEWS):
        c, s = math.cos(2 * math.pi * view / VIEWS), math.sin(2 * math.pi * view / VIEWS)
        rotation = torch.tensor([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]], dtype=torch.float64)
        poses[view, :3, :3] = rotation
        poses[view, :3, 3] = -rotation @ torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64)
    count = frames * VIEWS
    times = -(torch.arange(count) // VIEWS) * round(GAP_S * 1e9)
    return CameraRig(
        tuple(f"view{number}" for number in range(count)),
        K.double().expand(1, count, 3, 3),
        poses.repeat(frames, 1, 1)[None],
        torch.tensor(hw).expand(1, count, 2),
        torch.eye(3, dtype=torch.float64).expand(1, count, 3, 3),
        times[None],
    )
