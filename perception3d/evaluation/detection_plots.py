"""Precision over recall of every class, as a picture."""

from __future__ import annotations

from pathlib import Path

from perception3d.evaluation.detection import DetectionResult


def plot_precision_recall(result: DetectionResult, path: str | Path) -> None:
    """Draws a panel a class with a line a threshold; AP in the legend.

    Args:
        result: of `evaluate_part`.
        path: picture; its ending says the format.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "plots need matplotlib, which is not installed; run: pip install matplotlib"
        ) from None
    config, scores = result.scores.config, result.scores
    figure = Figure(figsize=(20, 8), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True).ravel()
    for index, (panel, name) in enumerate(zip(panels, config.classes)):
        for t, threshold in enumerate(config.thresholds_m):
            curve = result.curves[name, threshold]
            end = curve.last_bin + 1
            label = f"{threshold:g} m: AP {scores.label_aps[index, t]:.3f}"
            panel.plot(curve.recall[:end], curve.precision[:end], label=label)
        panel.axvspan(0, config.min_recall, color="0.92")
        panel.axhspan(0, config.min_precision, color="0.92")
        panel.set(title=name.replace("_", " "), xlim=(0, 1), ylim=(0, 1))
        panel.legend(loc="upper right", fontsize="small")
    figure.supxlabel("recall (grey: does not count)")
    figure.supylabel("precision")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
