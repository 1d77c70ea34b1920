"""Score weights with the official evaluator, and check the predictions as a submission.

    python tools/test.py configs/cmt_fusion.py WEIGHTS [--knob value ...] [--out FOLDER]

    python tools/test.py configs/fuller_joint.py WEIGHTS --drop lidar cameras CAM_FRONT lidar:0.5

WEIGHTS is a .safetensors file, the name or folder of a run (its best weights), or ``untrained``.
With --drop the scores are taken again with each of these sensors gone, one at a time, and a table
tells what was lost; ``--drop all`` takes every one that the model has.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; clear_errors answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))

from perception3d.datasets.samples import FrameDataset
from perception3d.datasets.sensor_drop import SensorDrop, every_drop
from perception3d.datasets.transforms import Compose
from perception3d.engine.command_line import (
    clear_errors,
    model_with_weights,
    parse_command,
    split_weights,
)
from perception3d.engine.evaluating import ego_positions_m, evaluate
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.files import write_json
from perception3d.engine.prediction import pick_device
from perception3d.evaluation import validate_submission

#: Columns of the table of dropped sensors.
HEADLINES = ("mAP", "NDS", "mATE", "mAOE", "mAVE", "mIoU")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do with it.

    Attributes:
        out: folder for metrics and predictions (default: the root's ``test/NAME``).
        root: folder of all runs.
        device: auto, cpu, cuda or cuda:N.
        drop: sensors to fail, one at a time: lidar, cameras, a camera's name (black), lidar:0.5
            (that share of points is left), or all.
    """

    out: Path | None = None
    root: Path = Path("work_dirs")
    device: str = "auto"
    drop: tuple[str, ...] = ()


def main(arguments: list[str]) -> int:
    words = split_weights(arguments)
    if words is None:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    config, weights, flags = words
    command = parse_command(config, flags, Options, prog="tools/test.py")
    options, experiment = command.options, command.experiment()
    if experiment.val is None or not experiment.evaluators:
        raise ValueError(f"{command.config.path} has no validation samples or no evaluators")
    device = pick_device(options.device)
    model, source = model_with_weights(experiment, weights, options.root)
    samples = experiment.val()
    out = options.out or options.root / "test" / experiment.name
    asked = drops(options.drop, experiment, samples)
    scores = evaluate(experiment, model.to(device), samples, out, device=device)
    if scores is None:
        return 1
    write_json(out / "scores.json", {"weights": source, "knobs": command.knobs, **scores})
    if options.drop:
        tables = {"all sensors": scores}
        for what in asked:
            one = dropped(samples, what)
            folder = out / f"drop_{what.replace(':', '_')}"
            tables[what] = evaluate(experiment, model, one, folder, device=device) or {}
        write_json(out / "drops.json", {"weights": source, "scores": tables})
        print(table_of(tables))
    for expected in experiment.expected:
        print(expected.verdict(scores))
    accepted = True
    if (out / "results.json").is_file():
        report = validate_submission(
            out / "results.json",
            tokens=samples.tokens,
            ego_position_m=ego_positions_m(samples.dataset),
        )
        print(f"{out / 'results.json'}: {report}")
        accepted = report.accepted
    print(f"{source}: scores in {out / 'scores.json'}")
    return 0 if accepted else 1


def drops(asked: tuple[str, ...], experiment: Experiment, samples: Samples) -> tuple[str, ...]:
    """What to drop, one after the other.

    Raises:
        ValueError: a sensor that the model does not have.
    """
    frames = getattr(samples.dataset, "frames", None)
    cameras = tuple(getattr(frames, "cameras", ())) if experiment.modalities.camera else ()
    known = every_drop(cameras, lidar=experiment.modalities.lidar)
    if asked == ("all",):
        return known
    kinds = {name.partition(":")[0] for name in known} | set(known)
    for what in asked:
        SensorDrop(what)
        if what.partition(":")[0] not in kinds:
            raise ValueError(
                f"--drop {what}: the model has no such sensor, or no other; known: "
                f"{', '.join(known)}, all"
            )
    return asked


def dropped(samples: Samples, what: str) -> Samples:
    """The same samples with a sensor gone.

    Raises:
        ValueError: the samples are not frames that could be changed.
    """
    dataset = samples.dataset
    if not isinstance(dataset, FrameDataset):
        raise ValueError(f"--drop {what}: samples of {type(dataset).__name__} have no sensors")
    steps = () if dataset.transform is None else (dataset.transform,)
    changed = FrameDataset(dataset.frames, Compose((*steps, SensorDrop(what))), seed=dataset.seed)
    return replace(samples, dataset=changed)


def table_of(scores: dict[str, dict[str, float]]) -> str:
    """A line for each sensor that was dropped; figures of all that have them."""
    first = next(iter(scores.values()))
    names = [name for name in HEADLINES if name in first]
    wide = max(len(what) for what in scores)
    lines = ["without".ljust(wide) + "".join(f"{name:>8}" for name in names)]
    for what, found in scores.items():
        cells = [f"{found.get(name, float('nan')):8.3f}" for name in names]
        lines.append(what.ljust(wide) + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
