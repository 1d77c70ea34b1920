"""Pictures from a data set, or from a results file beside the truth.

    tools/view.py bev     --data town --frame 3 --out bev.png
    tools/view.py cameras --data data/nuscenes --split val --token TOKEN --results results.json
    tools/view.py scene   --out scene.png --save scene.ply
    tools/view.py page    --results results.json --metrics metrics.json --out page.html
    tools/view.py gradients work_dirs/fuller_det_map_imtl_g_town

Works without a display and without the devkits.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from perception3d.datasets.info_json import read_info_json
from perception3d.datasets.locate import locate
from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.evaluation.metrics import DetectionMetrics
from perception3d.evaluation.results import predictions_from_submission, read_samples
from perception3d.structures import SE3, BEVGrid, Frame, Prediction
from perception3d.viewer import (
    SceneUnavailableError,
    check_tokens,
    draw_bev,
    draw_cameras,
    draw_gradients,
    has_display,
    render_scene,
    scene_arrays,
    show_scene,
    write_image,
    write_page,
    write_ply,
)

MAP_GRID = BEVGrid((-60.0, 60.0), (-60.0, 60.0), (-5.0, 3.0), 0.25)
MAP_ADVICE = (
    'Download "Map expansion pack (v1.3)" (nuScenes-map-expansion-v1.3.zip) from '
    "https://www.nuscenes.org/nuscenes#download and unpack it into the data set's folder maps, so "
    "that maps/expansion holds the JSON files; --no-map silences this note"
)


@dataclass(frozen=True)
class Source:
    """What to draw."""

    data: str = "auto"
    """auto, nuscenes, town, a data set's folder, or one key frame as mmdetection3d info JSON."""
    split: str | None = None
    """Split; the validation split when left out."""
    version: str | None = None
    """Folder of the tables; found from the split when left out."""
    token: str | None = None
    """Sample token; instead of --frame."""
    frame: int = 0
    """Number of the sample in the split."""
    results: Path | None = None
    """Results file in the leaderboard's format; drawn beside the truth."""
    sweeps: int = 1
    """LiDAR sweeps merged."""
    min_score: float | None = None
    """Predictions below it are not drawn; when left out, as many are drawn as there are annotated
    boxes with a LiDAR point inside, at a score of 0.1 to 0.4."""
    map: bool = True
    """Draw the map below, where the map expansion is there."""


@dataclass(frozen=True)
class Selection:
    """Samples to draw and what is predicted for them."""

    tokens: tuple[str, ...]
    read: Callable[[], Iterator[Frame]]
    predictions: dict[str, Prediction]

    def first(self) -> tuple[Frame, Prediction | None]:
        """The first sample with its prediction."""
        frame = next(self.read())
        return frame, self.predictions.get(frame.token)


def select(source: Source, *, count: int = 1, every: int = 1) -> Selection:
    """Open the source and choose samples, from the one that it names on.

    Raises:
        FileNotFoundError, KeyError, ValueError: data, split, sample or results are missing or do
            not belong together; the text says what was found.
    """
    if Path(source.data).suffix == ".json":
        single = read_info_json(source.data)
        poses = {single.token: (single.global_SE3_ref, single.ego_SE3_ref)}
        predictions = read_predictions(source.results, poses)
        return Selection((single.token,), lambda: iter([single]), predictions)
    frames, bare = open_frames(source)
    first = frames.index_of(source.token) if source.token else source.frame
    if not 0 <= first < len(frames):
        raise ValueError(
            f"frame {first} does not exist: split {frames.split!r} of {frames.root} has "
            f"{len(frames)} frames, 0 to {len(frames) - 1}"
        )
    numbers = range(first, len(frames), max(1, every))[: max(1, count)]
    poses = {(f := bare[n]).token: (f.global_SE3_ref, f.ego_SE3_ref) for n in numbers}
    return Selection(
        tuple(poses),
        lambda: (frames[n] for n in numbers),
        read_predictions(source.results, poses),
    )


def open_frames(source: Source) -> tuple[NuScenesFrames, NuScenesFrames]:
    """Open the split that the source names, whole and without files of sensors."""
    root, split, version = Path(source.data), source.split, source.version
    if split is None or source.data in ("auto", "nuscenes", "town"):
        found = locate(source.data)
        root = found.root
        if split is None:
            split, version = found.val_split, version or found.version
    bare = NuScenesFrames(
        root, split, version=version, cameras=(), load_points=False, load_boxes=False
    )
    grid = None
    if source.map:
        needed = {
            root / "maps" / "expansion" / f"{bare.location(i)}.json" for i in range(len(bare))
        }
        missing = sorted(str(path) for path in needed if not path.is_file())
        grid = None if missing else MAP_GRID
        if missing:
            print(f"no map is drawn: {missing[0]} is missing. {MAP_ADVICE}", file=sys.stderr)
    frames = NuScenesFrames(root, split, version=version, num_sweeps=source.sweeps, map_grid=grid)
    return frames, bare


def read_predictions(
    results: Path | None, poses: dict[str, tuple[SE3, SE3]]
) -> dict[str, Prediction]:
    """Read what a results file says of these samples; refuse a file of other ones."""
    if results is None:
        return {}
    check_tokens(tuple(poses), {token for token, _ in read_samples(results)}, str(results))
    return {p.token: p for p in predictions_from_submission(results, poses)}


def bev(
    source: Source,
    out: Path = Path("bev.png"),
    layout: Literal["side", "overlay"] = "side",
    color_by: Literal["height", "intensity"] = "height",
    extent_m: float = 52.0,
    size_px: int = 900,
) -> None:
    """Draw one sample from above.

    Args:
        source: what to draw.
        out: the .png or .jpg file.
        layout: truth beside the prediction, or below it.
        color_by: what the colour of a point tells.
        extent_m: half side of the square shown, in metres.
        size_px: side of a panel.
    """
    frame, prediction = select(source).first()
    image = draw_bev(
        frame,
        prediction,
        min_score=source.min_score,
        layout=layout,
        color_by=color_by,
        extent_m=extent_m,
        size_px=size_px,
    )
    print(write_image(out, image))


def cameras(
    source: Source,
    out: Path = Path("cameras.jpg"),
    layout: Literal["side", "overlay"] = "side",
    points: bool = False,
    labels: bool = True,
    tile_width_px: int = 640,
) -> None:
    """Draw the cameras of one sample with projected boxes.

    Args:
        source: what to draw.
        out: the .png or .jpg file.
        layout: every camera twice, the prediction right below the truth; or once, the truth dashed
            below the prediction.
        points: project the LiDAR points, coloured by depth.
        labels: write the names of large boxes beside them.
        tile_width_px: width of one camera's image.
    """
    frame, prediction = select(source).first()
    image = draw_cameras(
        frame,
        prediction,
        min_score=source.min_score,
        layout=layout,
        with_points=points,
        with_labels=labels,
        tile_width_px=tile_width_px,
    )
    print(write_image(out, image))


def scene(
    source: Source,
    out: Path | None = None,
    save: Path | None = None,
    layout: Literal["side", "overlay"] = "side",
    color_by: Literal["height", "intensity"] = "height",
) -> None:
    """Show one sample in 3-D: a window where there is a display, else a picture.

    Args:
        source: what to draw.
        out: draw this .png file off-screen instead of opening a window.
        layout: of a picture: truth beside the prediction, or dashed in the same view.
        save: save the points as this .ply file (and the boxes beside it) and open nothing, unless
            --out is given too. Needs no Open3D.
        color_by: what the colour of a point tells.
    """
    frame, prediction = select(source).first()
    arrays = scene_arrays(frame, prediction, min_score=source.min_score, color_by=color_by)
    if save is not None:
        print(*write_ply(save, arrays), sep="\n")
    if out is not None:
        print(render_scene(arrays, out, layout=layout))
    elif save is None and has_display():
        show_scene(arrays, title=f"{frame.log} {frame.token}")
    elif save is None:
        print(render_scene(arrays, "scene.png", layout=layout))


def page(
    source: Source,
    out: Path = Path("page.html"),
    count: int = 20,
    every: int = 1,
    metrics: Path | None = None,
    title: str | None = None,
    image_width_px: int = 640,
) -> None:
    """Write one HTML file with a frame slider; it opens from disk in any browser.

    Args:
        source: what to draw; the first of the frames.
        out: the .html file.
        count: number of frames, at most; about 0.35 MB each.
        every: take every n-th frame.
        metrics: metrics.json of an evaluation, whose figures head the page, or any text file.
        title: heading of the page.
        image_width_px: images are made at most this wide.
    """
    selection = select(source, count=count, every=every)
    text, headline = read_metrics(metrics)
    written = write_page(
        out,
        selection.read(),
        selection.predictions,
        title=title or f"perception3d · {Path(source.data).stem}",
        metrics=text,
        headline=headline,
        min_score=source.min_score,
        image_width_px=image_width_px,
    )
    print(f"{written} ({written.stat().st_size / 1e6:.1f} MB, {len(selection.tokens)} frames)")


def gradients(run: tyro.conf.Positional[Path], out: Path = Path("gradients.png")) -> None:
    """Draw what balancing did in a training run: lengths, angles and weights of gradients.

    Args:
        run: folder of the run.
        out: the .png or .svg file.
    """
    print(draw_gradients(run / "metrics.jsonl", out))


def read_metrics(path: Path | None) -> tuple[str, dict[str, float]]:
    """Read a metrics file: the table and headline figures of an evaluation's JSON, or its text."""
    if path is None:
        return "", {}
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text, {}
    metrics = DetectionMetrics.from_json(text)
    return metrics.table(), metrics.summary()


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit status."""
    verbs: dict[str, Any] = {
        "bev": bev, "cameras": cameras, "scene": scene, "page": page, "gradients": gradients,
    }  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="tools/view.py",
            description=__doc__,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except (OSError, ValueError, KeyError, ImportError, SceneUnavailableError) as error:
        # A KeyError's text is quoted by str(); its argument is the message.
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
