"""A config that predicts the truth of a nuScenes split without sensor files, or misplaces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception3d.datasets.locate import locate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.samples import FrameDataset
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.optim import AdamWSettings
from perception3d.evaluation.nuscenes import NuScenesEvaluator
from perception3d.structures import SE3, Frame, Prediction


@dataclass(frozen=True)
class Frames:
    """A batch that is the frames themselves."""

    frames: Sequence[Frame]

    def to(self, device: torch.device | str) -> Frames:
        return self


class Oracle(nn.Module):
    """Copies the boxes; in the wrong frame it takes those of the sensor for global ones."""

    def __init__(self, wrong_frame: bool) -> None:
        super().__init__()
        self.wrong_frame = wrong_frame

    def forward(self, batch: Frames) -> Sequence[Frame]:
        return batch.frames

    def predict(self, outputs: Sequence[Frame], batch: Frames) -> list[Prediction]:
        return [
            Prediction(
                frame.token,
                boxes := known(frame),
                score_of(len(boxes)),
                SE3.identity() if self.wrong_frame else frame.global_SE3_ref,
                frame.ego_SE3_ref,
            )
            for frame in outputs
        ]


def known(frame: Frame) -> Any:
    assert frame.boxes is not None
    return frame.boxes.select(frame.boxes.label >= 0)


def score_of(count: int) -> Tensor:
    return torch.linspace(0.9, 0.5, count)


def samples(root: Path, split: str) -> Samples:
    frames = NuScenesFrames(root, split, cameras=(), load_points=False)
    return Samples(dataset=FrameDataset(frames), collate=Frames, tokens=frames.tokens)


def experiment(
    *, data: str = "auto", val_split: str = "mini_val", wrong_frame: bool = False
) -> Experiment:
    """Predict what is known.

    Args:
        data: folder.
        val_split: split to predict.
        wrong_frame: forget to move boxes into the global frame.
    """
    root = locate(data, val_split=val_split)
    return Experiment(
        name="oracle",
        model=partial(Oracle, wrong_frame),
        train=partial(samples, root.root, root.train_split),
        val=partial(samples, root.root, root.val_split),
        optimizer=AdamWSettings(lr=1.0),
        epochs=1,
        workers=0,
        evaluators=(partial(NuScenesEvaluator, root.root, root.version, root.val_split),),
    )
