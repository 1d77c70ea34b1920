"""Rasters of the map expansion: ours against nuScenes-devkit's ``get_map_mask``, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.ops import machine
from perception3d.datasets import NuScenesFrames, locate
from perception3d.datasets.map_raster import MAP_CLASSES, patch_around, rasterize, read_map
from perception3d.engine.files import write_json
from perception3d.structures import SE3, BEVGrid

#: The published raster.
GRID = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-5.0, 3.0), 0.5)
LAYERS = (*MAP_CLASSES[:-1], "road_divider", "lane_divider")


@dataclass
class Way:
    """Seconds of processor time of one way to draw, and of reading its maps."""

    patches: list[float] = field(default_factory=list)
    reading: float = 0.0

    def row(self, name: str) -> dict[str, Any]:
        """For the table and the file."""
        least, middle, p95 = np.percentile(1e3 * np.array(self.patches), (0, 50, 95)).tolist()
        figures = {"median_ms": middle, "least_ms": least, "p95_ms": p95}
        return {"way": name, **figures, "read_maps_s": self.reading}


def run(*, data: str, split: str | None, patches: int, out: Path) -> None:
    """Draw six classes around frames of a split both ways, in turn; print, and write ``out``.

    Raises:
        FileNotFoundError: the map expansion is missing.
        ValueError: the devkit fails at every patch.
    """
    cv2.setNumThreads(1)
    facts = machine(1, "cpu")
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    found = locate(data)
    frames = NuScenesFrames(
        found.root, split or found.train_split, num_sweeps=1, cameras=(), load_points=False,
        load_images=False, load_boxes=False,
    )  # fmt: skip
    numbers = np.linspace(0, len(frames) - 1, min(patches, len(frames))).astype(int).tolist()
    own, devkit = Way(), Way()
    maps: dict[str, tuple[Any, Any]] = {}
    equal = failed = 0
    for number in numbers:
        location, pose = frames.location(number), frames[number].global_SE3_ref
        if location not in maps:
            ours, taken = _timed(read_map, found.root, location)
            own.reading += taken
            theirs, taken = _timed(_devkit_map, found.root, location)
            devkit.reading += taken
            maps[location] = ours, theirs
            rasterize(ours, pose, GRID)  # warms up
        ours, theirs = maps[location]
        raster, own_s = _timed(rasterize, ours, pose, GRID)
        try:
            mask, devkit_s = _timed(_devkit_mask, theirs, pose)
        except TypeError:  # a divider that leaves the patch and comes back
            failed += 1
            continue
        own.patches.append(own_s)
        devkit.patches.append(devkit_s)
        equal += bool((raster.mask.numpy() == mask).all())
    if not own.patches:
        raise ValueError(f"the devkit fails at all {failed} patches of {found.root}")
    rows = [own.row("own"), devkit.row("devkit")]
    # Patch by patch, so that a busy street counts on both sides.
    ratio = np.array(devkit.patches) / np.array(own.patches)
    compared = {
        "patches": len(ratio), "equal": equal, "devkit_failed": failed,
        "median_ratio": float(np.median(ratio)), "least_ratio": float(ratio.min()),
    }  # fmt: skip
    _print(rows, compared)
    write_json(out, {"machine": facts, "clock": "process time", "rows": rows, "compared": compared})
    print(f"\n{out}")


def _print(rows: list[dict[str, Any]], compared: dict[str, Any]) -> None:
    print(f"\n{compared['patches']} patches of {GRID.nx} x {GRID.ny} cells, six classes")
    for row in rows:
        print(
            f"  {row['way']:8s} {row['median_ms']:8.2f} ms a patch (least {row['least_ms']:.2f}, "
            f"p95 {row['p95_ms']:.2f}), maps read in {row['read_maps_s']:.2f} s"
        )
    print(
        f"  devkit / own, patch by patch: {compared['median_ratio']:.1f} (least "
        f"{compared['least_ratio']:.1f})\n  equal pixel for pixel: {compared['equal']} of "
        f"{compared['patches']}; the devkit failed at {compared['devkit_failed']}"
    )


def _timed(way: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What it returns, and the processor time it took: neighbours on the machine count less."""
    started = time.process_time()
    result = way(*arguments)
    return result, time.process_time() - started


def _devkit_map(root: Path, location: str) -> Any:
    from nuscenes.map_expansion.map_api import NuScenesMap

    return NuScenesMap(str(root), location)


def _devkit_mask(nusc_map: Any, pose: SE3) -> np.ndarray:
    patch = patch_around(pose, GRID)
    box = (*patch.center_m, *patch.size_m[::-1])
    mask = nusc_map.get_map_mask(box, patch.angle_deg, list(LAYERS), patch.shape)
    return np.concatenate((mask[:5], mask[5:6] | mask[6:7])).astype(bool)
