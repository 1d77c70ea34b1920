"""The main job from nothing: a town, a trained detector, its score, a leaderboard file, pictures.

    make demo

Each step is a command of the project, printed before it runs, so this file is also a tour of them.
A step whose result is already there is not done again; remove ``work_dirs/demo`` to start over.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONFIG = "configs/cmt_fusion.py"
TOWN = Path("data/town")
RUN = Path("work_dirs/demo")
PICTURES = RUN / "pictures"
#: What fits a quarter of an hour on two cores, everything included.
STEPS = 1150
#: The same model trained longer on other seeds of the town; LOG.md holds its command.
LONGER = Path("weights/cmt_fusion_town.safetensors")


def main() -> int:
    """Run every step; returns the exit status of the first that fails."""
    started = time.monotonic()
    free_gb = shutil.disk_usage(".").free / 1e9
    if free_gb < 3:
        print(f"demo: 3 GB of disk are needed for the town; {free_gb:.1f} GB are free here")
        return 1

    run("tools/make_town.py", "--out", TOWN)
    if not (RUN / "weights" / "last.safetensors").is_file():
        resume = ("--resume",) if RUN.is_dir() else ()
        flags = ("--data", TOWN, "--run", "demo", "--max-steps", STEPS, "--evaluate-every", -1)
        run("tools/train.py", CONFIG, *flags, *resume)

    rows = {"untrained": score("untrained"), "trained here": score("demo")}
    best = "demo"
    if LONGER.is_file():
        best = str(LONGER)
        rows["trained longer, other seeds"] = score(best, "longer")

    results = RUN / "results.json"
    run("tools/submit.py", CONFIG, best, "--data", TOWN, "--out", results)
    run("tools/validate.py", results, "--data", TOWN, "--split", "town_val")
    draw(results, RUN / "scores" / ("longer" if best == str(LONGER) else best) / "metrics.json")

    print("\n" + table(rows))
    print(f"\nleaderboard file   {results}\npictures           {PICTURES}/  (open page.html)")
    print(f"run                {RUN}/  (config, knobs, weights, metrics.jsonl)")
    print(f"time               {(time.monotonic() - started) / 60:.1f} minutes")
    return 0


def run(script: str, *arguments: object, required: bool = True) -> bool:
    """One command of the project; ends the demo if it fails and is required."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ python {script} {' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, script, *words]).returncode
    if status and required:
        print(f"demo: {script} ended with status {status}; `make demo` goes on from here")
        sys.exit(status)
    return status == 0


def score(weights: str, name: str | None = None) -> dict[str, float]:
    """The official evaluator's figures for some weights."""
    out = RUN / "scores" / (name or weights)
    run("tools/test.py", CONFIG, weights, "--data", TOWN, "--out", out)
    scores: dict[str, float] = json.loads((out / "scores.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    scores["car AP at 2 m"] = metrics["label_aps"]["car"]["2"]
    return scores


def draw(results: Path, metrics: Path) -> None:
    """Truth beside prediction, four ways; the page shows the scores too."""
    source = ("--data", TOWN, "--results", results, "--frame", 10)
    run("tools/view.py", "bev", *source, "--sweeps", 5, "--out", PICTURES / "bev.png")
    run("tools/view.py", "cameras", *source, "--out", PICTURES / "cameras.png")
    page = ("--metrics", metrics, "--count", 20, "--every", 4, "--out", PICTURES / "page.html")
    run("tools/view.py", "page", "--data", TOWN, "--results", results, *page)
    scene = ("--out", PICTURES / "scene.png", "--save", PICTURES / "scene.ply")
    # Where Open3D cannot draw, the command says what is missing; the other pictures are there.
    run("tools/view.py", "scene", *source, *scene, required=False)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Headline figures on the held-out scenes, a line for each set of weights."""
    names = ("mAP", "NDS", "car AP at 2 m", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    head = f"{'held-out scenes of the town':<30}" + "".join(f"{name:>15}" for name in names)
    lines = [
        f"{label:<30}" + "".join(f"{row[name]:>15.3f}" for name in names)
        for label, row in rows.items()
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(main())
