"""Tables of a study: mean and standard error over seeds, and what may be claimed.

A gain is the mean, over seeds, of the difference to another arm of the same seed, which had the
same first weights and samples; its standard error is that of those differences. It is listed where
it is more than twice as large and there are three seeds or more. With so few seeds noise alone
passes that bar often, so the number of comparisons and what chance would let through stand beside,
and a star marks what holds for all comparisons of a setting together (Holm, 5 %).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from benchmarks.study import ARMS, SETTINGS, UNBALANCED_ARMS, Cell, read_row

Row = Mapping[str, Any]

#: Column -> where it stands in a row. "off": without that sensor. "both tasks": the mean of mAP's
#: and mIoU's change against the task alone, with the same seed.
COLUMNS: dict[str, Callable[[Row], float | None]] = {
    "mAP": lambda row: row["scores"]["all sensors"].get("mAP"),
    "NDS": lambda row: row["scores"]["all sensors"].get("NDS"),
    "mIoU": lambda row: row["scores"]["all sensors"].get("mIoU"),
    "at 0.50": lambda row: row["scores"]["all sensors"].get("mIoU@0.50"),
    "both tasks, %": lambda row: row["change"],
    "mAP, LiDAR off": lambda row: row["scores"]["lidar"].get("mAP"),
    "mIoU, LiDAR off": lambda row: row["scores"]["lidar"].get("mIoU"),
    "mAP, cameras off": lambda row: row["scores"]["cameras"].get("mAP"),
    "mIoU, cameras off": lambda row: row["scores"]["cameras"].get("mIoU"),
}
#: How a run went: lengths of gradients, cosine between tasks, share of clipped steps, costs.
FIGURES: dict[str, Callable[[Row], float | None]] = {
    "length, det : map": lambda row: _ratio(row, "norm/detection", "norm/segmentation"),
    "cosine": lambda row: row["gradients"].get("cosine/detection segmentation"),
    "weight of map": lambda row: row["gradients"].get("weight/segmentation"),
    "camera : LiDAR": lambda row: _ratio(row, "modality_norm/camera", "modality_norm/lidar"),
    "clipped": lambda row: row["gradients"].get("clip/rate"),
    "steps/s": lambda row: row["samples_per_s"],
    "CPU s a step": lambda row: row["cpu_s_a_step"],
    "peak MB": lambda row: row["peak_mb"],
    "GPU peak GB": lambda row: row.get("cuda_peak_gb") or None,
}
#: What is compared with what.
REFERENCES = (
    "plain sum",
    "detection alone",
    "map alone",
    "map x 5",
    "map x 1000",
    "inter (IMTL-G)",
)
GAINS = (
    "mAP", "NDS", "mIoU", "both tasks, %", "mAP, LiDAR off", "mIoU, LiDAR off", "mAP, cameras off",
    "mIoU, cameras off",
)  # fmt: skip
LEAST_SEEDS, LEVEL = 3, 0.05


def report(folder: Path) -> str:
    """All tables of a study, as Markdown.

    Raises:
        ValueError: there is no row, or rows that must not be compared: of other steps, data or
            machines.
    """
    rows = [read_row(path) for path in sorted((folder / "rows").glob("*.json"))]
    if not rows:
        raise ValueError(f"{folder} has no rows yet; run the study first")
    parts = [_common(rows)]
    for setting in SETTINGS:
        found = by_arm(rows, setting)
        if found:
            title = f"### {setting}: {_seeds(found)}"
            parts += [title, table(found, COLUMNS), table(found, FIGURES), claims(found)]
    if len(parts) == 1:
        raise ValueError(f"{folder} has rows of detection alone only; run other arms")
    return "\n\n".join(parts)


def _common(rows: Sequence[Row]) -> str:
    """What all rows share, in words; commits may differ and are listed."""
    shared = {
        "flags": {" ".join(row["flags"][len(cell_of(row).flags) :]) for row in rows},
        "data": {str(row["data"]) for row in rows},
        "device": {row["machine"]["device"] for row in rows},
    }
    for what, found in shared.items():
        if len(found) > 1:
            raise ValueError(f"rows of different {what} are not comparable: {sorted(found)}")
    commits = sorted({str(row["git"]["commit"])[:7] for row in rows})
    flags, device = shared["flags"].pop(), shared["device"].pop()
    return f"`{flags}`, {device}, commits {', '.join(commits)}"


def cell_of(row: Row) -> Cell:
    """The run that a row is of.

    Raises:
        ValueError: an arm or setting that is not known (any more).
    """
    cell = Cell(**row["cell"])
    if cell.arm not in SETTINGS.get(cell.setting, ((), {}))[1]:
        raise ValueError(f"unknown run {cell}; delete its row")
    return cell


def by_arm(rows: Sequence[Row], setting: str) -> dict[str, dict[int, Row]]:
    """Arm -> seed -> row of a setting, in the study's order.

    Detection alone does not know of the map's loss: every setting has the same.
    """
    found: dict[str, dict[int, Row]] = {arm: {} for arm in [*ARMS, *UNBALANCED_ARMS]}
    for row in rows:
        cell = row["cell"]
        if cell["setting"] == setting or cell["arm"] == "detection alone":
            found[cell["arm"]][cell["seed"]] = row
    filled = {arm: seeds for arm, seeds in found.items() if seeds}
    if set(filled) <= {"detection alone"}:
        return {}
    return {
        arm: {seed: {**row, "change": _change(filled, row, seed)} for seed, row in seeds.items()}
        for arm, seeds in filled.items()
    }


def table(
    found: Mapping[str, Mapping[int, Row]], columns: Mapping[str, Callable[[Row], float | None]]
) -> str:
    """Markdown: an arm a line, mean +- standard error over its seeds; no column without figures."""
    cells = {
        name: [spread([get(row) for row in seeds.values()]) for seeds in found.values()]
        for name, get in columns.items()
    }
    cells = {name: column for name, column in cells.items() if set(column) != {"-"}}
    lines = ["| arm | " + " | ".join(cells) + " |", "| --- |" + " --- |" * len(cells)]
    for arm, *line in zip(found, *cells.values()):
        lines.append(f"| {arm} | " + " | ".join(line) + " |")
    return "\n".join(lines)


def claims(found: Mapping[str, Mapping[int, Row]]) -> str:
    """What is more than twice its standard error away from a reference arm, seed by seed."""
    made: list[tuple[float, str]] = []
    passed: list[tuple[float, str]] = []
    chance = 0.0
    for reference in REFERENCES:
        for arm, seeds in found.items():
            if arm == reference or reference not in found:
                continue
            both = sorted(set(seeds) & set(found[reference]))
            for name in GAINS:
                pairs = [
                    (COLUMNS[name](seeds[k]), COLUMNS[name](found[reference][k])) for k in both
                ]
                gains = [a - b for a, b in pairs if a is not None and b is not None]
                if len(gains) < LEAST_SEEDS or not any(gains):
                    continue  # too few seeds, or nothing that could differ
                p, verdict = judged(gains)
                made.append((p, f"{arm} against {reference}: {name} {verdict}"))
                chance += 2 * float(student_t.sf(2.0, len(gains) - 1))
                if p < 2 * student_t.sf(2.0, len(gains) - 1):
                    passed.append(made[-1])
    if not made:
        return f"No arm has {LEAST_SEEDS} seeds yet to be compared."
    held = holm([p for p, _ in made])
    lines = [
        f"Beyond two standard errors, same seeds, paired: {len(passed)} of {len(made)} comparisons "
        f"(about {chance:.0f} by chance alone; *: holds for all together).",
        "",
    ]
    for p, text in passed:
        lines.append(f"* {text}" + ("\\*" if p <= held else ""))
    return "\n".join(lines)


def judged(gains: Sequence[float]) -> tuple[float, str]:
    """Two-sided p of no gain (Student's t), and "+0.031 +- 0.004"."""
    mean, error = statistics.fmean(gains), standard_error(gains)
    p = 0.0 if error == 0 else 2 * float(student_t.sf(abs(mean) / error, len(gains) - 1))
    return p, f"{mean:+.3f} +- {error:.3f}"


def holm(ps: Sequence[float]) -> float:
    """The largest p that is still rejected when all are tested at the level; -1 for none."""
    kept = -1.0
    for number, p in enumerate(sorted(ps)):
        if p > LEVEL / (len(ps) - number):
            break
        kept = p
    return kept


def standard_error(values: Sequence[float]) -> float:
    """Of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def spread(values: Sequence[float | None]) -> str:
    """Mean +- standard error of what is there; "-" for nothing."""
    there = [value for value in values if value is not None and not math.isnan(value)]
    if not there:
        return "-"
    mean = statistics.fmean(there)
    digits = 0 if abs(mean) >= 100 else 2 if abs(mean) >= 1 else 3
    text = f"{mean:.{digits}f}"
    return text if len(there) < 2 else f"{text} +- {standard_error(there):.{digits}f}"


def _change(found: Mapping[str, Mapping[int, Row]], row: Row, seed: int) -> float | None:
    gains = []
    for alone, name in (("detection alone", "mAP"), ("map alone", "mIoU")):
        own = row["scores"]["all sensors"].get(name)
        reference = found.get(alone, {}).get(seed)
        if own is None or reference is None or not reference["scores"]["all sensors"][name]:
            return None
        gains.append(100 * (own / reference["scores"]["all sensors"][name] - 1))
    return statistics.fmean(gains)


def _ratio(row: Row, above: str, below: str) -> float | None:
    parts = row["gradients"].get(above), row["gradients"].get(below)
    return None if None in parts or not parts[1] else parts[0] / parts[1]


def _seeds(found: Mapping[str, Mapping[int, Row]]) -> str:
    counts = sorted({len(seeds) for seeds in found.values()})
    if counts == [1]:
        return "one seed"
    return f"{counts[-1]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
