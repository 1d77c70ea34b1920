"""Run a model on one sample and draw what it says from above, beside the truth.

    python tools/predict.py configs/fuller_joint.py WEIGHTS [--knob value ...] [--frame 3]
    python tools/predict.py configs/fuller_joint.py WEIGHTS --frame 3 --drop lidar

WEIGHTS is a .safetensors file, the name or folder of a run (its best weights), or ``untrained``.
Boxes lie over the predicted map, where the model draws one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.samples import FrameDataset
from perception3d.datasets.sensor_drop import SensorDrop
from perception3d.engine.command_line import (
    clear_errors,
    model_with_weights,
    parse_command,
    split_weights,
)
from perception3d.engine.prediction import pick_device, predict
from perception3d.structures import BEVGrid
from perception3d.viewer import draw_bev, write_image

#: Of the true map, drawn where the map expansion is there.
MAP_GRID = BEVGrid((-60.0, 60.0), (-60.0, 60.0), (-5.0, 3.0), 0.25)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw.

    Attributes:
        frame: number of the sample in the validation split.
        token: its token; instead of the number.
        out: the .png or .jpg file.
        drop: a sensor to fail first: lidar, cameras, a camera's name, lidar:0.5.
        min_score: boxes below it are not drawn; chosen by the number of true boxes when left out.
        probability: cells of the map are drawn from this probability on.
        extent_m: half side of the square shown, in metres.
        root: folder of all runs.
        device: auto, cpu, cuda or cuda:N.
    """

    frame: int = 0
    token: str | None = None
    out: Path = Path("prediction.png")
    drop: str | None = None
    min_score: float | None = None
    probability: float = 0.5
    extent_m: float = 42.0
    root: Path = Path("work_dirs")
    device: str = "auto"


def main(arguments: list[str]) -> int:
    words = split_weights(arguments)
    if words is None:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    config, weights, flags = words
    command = parse_command(config, flags, Options, prog="tools/predict.py")
    options, experiment = command.options, command.experiment()
    if not 0 < options.probability < 1:
        raise ValueError(f"--probability {options.probability}: give a number in (0, 1)")
    used = experiment.modalities
    if (options.drop or "").startswith("lidar") and not used.lidar:
        raise ValueError(f"--drop {options.drop}: the model has no LiDAR")
    if experiment.val is None:
        raise ValueError(f"{command.config.path} has no validation samples")
    samples = experiment.val()
    dataset = samples.dataset
    if not isinstance(dataset, FrameDataset) or not isinstance(dataset.frames, NuScenesFrames):
        raise ValueError(f"{command.config.path} does not read frames of nuScenes or the town")
    source = dataset.frames
    number = options.frame if options.token is None else source.index_of(options.token)
    if not 0 <= number < len(source):
        raise ValueError(f"--frame {number}: {source.split} has frames 0 to {len(source) - 1}")
    device = pick_device(options.device)
    model, where = model_with_weights(experiment, weights, options.root)
    frame = dataset[number]
    if options.drop is not None:
        frame = SensorDrop(options.drop)(frame, np.random.default_rng(0))
    (prediction,) = predict(model.to(device), [samples.collate([frame])], device)
    truth = with_map(source)[number]
    if options.drop is not None and frame.points is None:
        truth = replace(truth, points=None)
    image = draw_bev(
        truth,
        prediction,
        min_score=options.min_score,
        map_threshold=options.probability,
        extent_m=options.extent_m,
    )
    print(f"{where}: {write_image(options.out, image)}")
    return 0


def with_map(frames: NuScenesFrames) -> NuScenesFrames:
    """The same samples with the key sweep, all boxes and, if there is one, the map."""
    grid = MAP_GRID if (frames.root / "maps" / "expansion").is_dir() else None
    return NuScenesFrames(
        frames.root,
        frames.split,
        version=frames.version,
        num_sweeps=1,
        load_images=False,
        map_grid=grid,
    )


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
