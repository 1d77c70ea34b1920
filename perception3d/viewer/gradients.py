"""What balancing did over a run: lengths, angles and weights of gradients, from its log."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from perception3d.viewer.canvas import write_bytes

#: Rows of the picture: key in the log, heading, whether the axis is logarithmic.
ROWS = (
    ("norm", "length of the tasks' gradients where they part", True),
    ("cosine", "cosine between them", False),
    ("weight", "weight of each task", False),
    ("modality_norm", "length of the sensors' gradients", True),
    ("modality_scale", "factor of each sensor", True),
    ("clip", "share of clipped steps", False),
)


def read_gradients(path: str | Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Curves by kind and name from a run's metrics.jsonl: (step, mean since the line before).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no line tells of gradients: the model has neither fork nor balance.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no log at {path}; name the folder of a run")
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while it wrote
        for kind, values in row.get("gradients", {}).items():
            for name, value in values.items():
                curves.setdefault(kind, {}).setdefault(name, []).append((row["step"], value))
    if not curves:
        raise ValueError(
            f"{path} tells nothing of gradients: its model has no fork and no balance "
            "(configs/fuller_joint.py has both)"
        )
    return curves


def draw_gradients(metrics: str | Path, out: str | Path) -> Path:
    """Draw a run's curves, one below the other.

    Args:
        metrics: the run's metrics.jsonl.
        out: the .png or .svg file.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_gradients`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_gradients(metrics)
    rows = [row for row in ROWS if row[0] in curves]
    figure = Figure(figsize=(9, 2.1 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (kind, heading, logarithmic) in zip(axes, rows):
        for name, points in curves[kind].items():
            steps, values = zip(*points)
            mark = "." if len(points) == 1 else None
            axis.plot(steps, values, label=name, linewidth=1.2, marker=mark)
        if logarithmic:
            axis.set_yscale("log")
        if kind == "cosine":
            axis.axhline(0, color="0.7", linewidth=0.8)
        axis.set_title(heading, loc="left", fontsize=9)
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
        axis.legend(fontsize=8, frameon=False, ncols=3, **place)
        axis.grid(alpha=0.25)
    axes[-1].set_xlabel("step")
    out = Path(out)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=out.suffix.removeprefix("."))
    return write_bytes(out, picture.getvalue())
