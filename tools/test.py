"""Score weights with the official evaluator, and check the predictions as a submission.

    python tools/test.py configs/cmt_fusion.py WEIGHTS [--knob value ...] [--out FOLDER]

WEIGHTS is a .safetensors file, the name or folder of a run (its best weights), or ``untrained``.
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
from perception3d.engine.evaluating import ego_positions_m, evaluate
from perception3d.engine.files import write_json
from perception3d.engine.prediction import pick_device
from perception3d.evaluation import validate_submission


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do with it.

    Attributes:
        out: folder for metrics and predictions (default: the root's ``test/NAME``).
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
    command = parse_command(config, flags, Options, prog="tools/test.py")
    options, experiment = command.options, command.experiment()
    if experiment.val is None or not experiment.evaluators:
        raise ValueError(f"{command.config.path} has no validation samples or no evaluators")
    device = pick_device(options.device)
    model, source = model_with_weights(experiment, weights, options.root)
    samples = experiment.val()
    out = options.out or options.root / "test" / experiment.name
    scores = evaluate(experiment, model.to(device), samples, out, device=device)
    if scores is None:
        return 1
    write_json(out / "scores.json", {"weights": source, "knobs": command.knobs, **scores})
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


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
