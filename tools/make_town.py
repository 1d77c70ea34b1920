"""Make a town: a generated driving world in nuScenes v1.0 or Argoverse 2 sensor format.

    python tools/make_town.py --out data/town
    python tools/make_town.py --format av2 --out data/town_av2
    python tools/make_town.py --out /big/disk/town --train-scenes 64 --val-scenes 16
    --scene-length-s 20 --image-scale 0.5

The same flags give the same bytes. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; main answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))
elif __name__ == "__mp_main__":
    # A worker process imports this file too. Only the first process answers Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import tyro

from perception3d.datasets.town.build import build_town
from perception3d.datasets.town.build_av2 import build_av2_town
from perception3d.datasets.town.settings import TownSettings


@dataclass(frozen=True, kw_only=True)
class Arguments(TownSettings):
    """Make a town in nuScenes v1.0 or Argoverse 2 sensor format.

    Attributes:
        out: folder of the data set; by default data/town, or data/town_av2.
        processes: parallel processes, 0 = one a core.
        format: "av2": logs of 10 Hz, every sweep labelled, two LiDARs and seven cameras of their
            own sizes (image_scale times 2048 x 1550); of the same streets and traffic.
    """

    out: Path | None = None
    processes: int = 0
    format: Literal["nuscenes", "av2"] = "nuscenes"


def main() -> int:
    """Run; returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        arguments = tyro.cli(Arguments, description=__doc__)
        knobs = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(TownSettings)}
        build, out = build_town, Path("data/town")
        if arguments.format == "av2":
            build, out = build_av2_town, Path("data/town_av2")
        counts = build(
            arguments.out or out,
            TownSettings(**knobs),
            processes=arguments.processes or None,
            report=_say,
        )
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, classes in counts.items():
        print(f"{split}: " + ", ".join(f"{name} {count}" for name, count in classes.items()))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
