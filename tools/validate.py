"""Check a nuScenes results file offline, more strictly than the official evaluator does.

    tools/validate.py results.json --data data/nuscenes --split val

Prints every finding with its sample and field. Exit status: 0 accepted (warnings are allowed),
1 rejected, 2 wrong use.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; clear_errors answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))

import tyro

from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.engine.command_line import clear_errors
from perception3d.engine.evaluating import ego_positions_m
from perception3d.evaluation import validate_submission


def main(
    results: tyro.conf.Positional[Path],
    data: Path | None = None,
    split: str | None = None,
    version: str | None = None,
    findings_per_code: int = 20,
) -> int:
    """Check a nuScenes results file offline, more strictly than the official evaluator does.

    Args:
        results: the JSON file.
        data: data folder; with it, missing and foreign samples and boxes out of range are found.
        split: split that the file answers, such as val, test or town_val; needed with --data.
        version: folder of the tables below the data folder; found from the split when left out.
        findings_per_code: list so many findings of each kind (all are counted).
    """
    if (data is None) != (split is None):
        print("--data and --split belong together; give both or neither", file=sys.stderr)
        return 2
    tokens = ego_position_m = None
    if data is not None and split is not None:
        try:
            frames = NuScenesFrames(data, split, version=version, cameras=(), load_points=False)
            tokens, ego_position_m = frames.tokens, ego_positions_m(frames)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    report = validate_submission(
        results,
        tokens=tokens,
        ego_position_m=ego_position_m,
        findings_per_code=max(1, findings_per_code),
    )
    print(report)
    return 0 if report.accepted else 1


if __name__ == "__main__":
    with clear_errors():
        sys.exit(tyro.cli(main))
