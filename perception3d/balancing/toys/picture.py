"""Curves of a toy, one panel an optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


def draw(curves: Curves, every: int, out: str | Path) -> Path:
    """Draw the camera's gradient by LiDAR's over the steps: the geometric mean of the seeds.

    Args:
        curves: by optimiser, by arm, by seed: a value every so many steps.
        every: steps from one value to the next.
        out: the .png or .svg file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for panel, (optimizer, arms) in zip(panels, curves.items()):
        for number, (name, seeds) in enumerate(arms.items()):
            values = [geometric_mean(points) for points in zip(*seeds)]
            steps = [every * (place + 1) for place in range(len(values))]
            # There are ten colours.
            style = "--" if number >= 10 else "-"
            panel.plot(steps, values, style, label=name, linewidth=1.2)
        panel.axhline(1, color="0.7", linewidth=0.8)
        panel.set_yscale("log")
        panel.set_title(optimizer, loc="left", fontsize=9)
        panel.set_xlabel("step")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("camera's gradient by LiDAR's, before balancing", fontsize=8)
    panels[-1].legend(fontsize=7, frameon=False, ncols=2)
    out = Path(out)
    figure.savefig(out, dpi=120)
    return out
