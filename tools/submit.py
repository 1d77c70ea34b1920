"""Write a leaderboard file and validate it; needs no devkit.

    python tools/submit.py configs/cmt_fusion.py WEIGHTS [--knob value ...] [--out results.json]

WEIGHTS is a .safetensors file, the name or folder of a run (its best weights), or ``untrained``.
The samples are those of the config's validation data: choose the test split by the config's knob.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; clear_errors answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))

from perception3d.engine.command_line import (
    clear_errors,
    model_with_weights,
    parse_command,
    split_weights,
)
from perception3d.engine.evaluating import ego_positions_m
from perception3d.engine.loading import eval_loader
from perception3d.engine.prediction import pick_device, predict
from perception3d.engine.progress import Progress
from perception3d.evaluation import SubmissionWriter, validate_submission


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write.

    Attributes:
        out: the file (default: the root's ``submit/NAME.json``).
        root: folder of all runs.
        device: auto, cpu, cuda or cuda:N.
    """

    out: Path | None = None
    root: Path = Path("work_dirs")
    device: str = "auto"


def main(arguments: list[str]) -> int:
    words = split_weights(arguments)
    if words is None:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    config, weights, flags = words
    command = parse_command(config, flags, Options, prog="tools/submit.py")
    options, experiment = command.options, command.experiment()
    if experiment.val is None:
        raise ValueError(f"{command.config.path} has no validation samples to predict")
    device = pick_device(options.device)
    model, source = model_with_weights(experiment, weights, options.root)
    samples = experiment.val()
    out = options.out or options.root / "submit" / f"{experiment.name}.json"
    loader = eval_loader(
        samples,
        batch_size=experiment.val_batch_size or experiment.batch_size,
        workers=experiment.workers,
        pin_memory=device.type == "cuda",
    )
    progress = Progress(len(samples.dataset), "prediction")  # type: ignore[arg-type]
    with SubmissionWriter(out, experiment.modalities, tokens=samples.tokens) as writer:
        for prediction in predict(model.to(device), loader, device, progress=progress):
            writer.add(prediction)
    report = validate_submission(
        out, tokens=samples.tokens, ego_position_m=ego_positions_m(samples.dataset)
    )
    print(f"{out} from {source}: {report}")
    return 0 if report.accepted else 1


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
