"""Say what a pre-trained backbone gives a config's model; with --out, write what to start from.

python tools/import_backbone.py configs/pillarnest_small.py convnext_tiny.pth
python tools/import_backbone.py configs/pillarnest_small.py convnext_tiny.pth --rule sliced
python tools/import_backbone.py configs/cmt_fusion.py nuim_r50.pth --out start.safetensors

The file may be of timm, torchvision, the mm family, the authors of ConvNeXt or VoVNet, or ours.
What it does not fill is drawn from the config's --seed. From the written file training goes on with
``tools/train.py CONFIG --weights start.safetensors``.
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

import torch

from perception3d.engine.backbone_rules import Rule
from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.checkpoints import save_weights
from perception3d.engine.command_line import clear_errors, parse_command, split_weights


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do with it.

    Attributes:
        rule: for PillarNeSt's ConvNeXt: copy what has the same name and shape (published), or the
            first channels of wider layers as well (sliced).
        scale_rows: with sliced, scale linear layers that lost inputs.
        flip_colors: turn the stem's input channels (torchvision and timm see red first, the
            published image branches of CMT and PETR blue first).
        part: the backbone's name in the model, such as image.backbone; told by the file otherwise.
        out: safetensors file to write, the whole model.
    """

    rule: Rule = "published"
    scale_rows: bool = False
    flip_colors: bool = False
    part: str | None = None
    out: Path | None = None


def main(arguments: list[str]) -> int:
    words = split_weights(arguments)
    if words is None:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    config, file, flags = words
    command = parse_command(config, flags, Options, prog="tools/import_backbone.py")
    options, experiment = command.options, command.experiment()
    start = BackboneWeights(
        file=Path(file),
        rule=options.rule,
        scale_rows=options.scale_rows,
        flip_colors=options.flip_colors,
        part=options.part,
    )
    torch.manual_seed(experiment.seed)
    model = experiment.model()
    start.fill(model)  # which says what it did
    if options.out is not None:
        notes = {"experiment": experiment.name, "backbone": Path(file).name, "rule": options.rule}
        save_weights(model, options.out, notes=notes)
        print(f"written to {options.out}: tools/train.py {config} --weights {options.out}")
    return 0


if __name__ == "__main__":
    with clear_errors():
        sys.exit(main(sys.argv[1:]))
