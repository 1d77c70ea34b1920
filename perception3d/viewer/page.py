"""One HTML file with a frame slider that opens from disk: data, style and script are all inside.

The file needs no server and fetches nothing. Points travel as quantised typed arrays, images as
JPEG, boxes as numbers, and the browser draws them (``assets/*.js``), so that scores and classes can
be filtered and the boxes in the cameras follow.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception3d.structures import Frame, MapRaster, PointCloud, Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.cameras import camera_azimuths, camera_matrices, camera_rows
from perception3d.viewer.canvas import encode_image, write_bytes
from perception3d.viewer.colors import (
    HEIGHT_RANGE_M,
    class_color,
    height_colors,
    intensity_colors,
)
from perception3d.viewer.drawable import (
    BoxArrays,
    balanced_score,
    box_arrays,
    check_same_sample,
    ego_outline,
    prediction_arrays,
    to_numpy,
    truth_arrays,
    up_rotation,
)
from perception3d.viewer.ground import paint_map, reach_m
from perception3d.viewer.legend import map_entries

SCRIPTS = ("geometry.js", "bev.js", "cameras.js", "controls.js", "app.js")
_RAMP_STEPS = 24
LEAST_SCORE = 0.05
"""Predictions below it are left out of the page."""
_QUANTUM_M = 0.005
"""Step of quantised points; 16 bits reach 163 m."""


def write_page(
    path: str | Path,
    frames: Iterable[Frame],
    predictions: Mapping[str, Prediction] | None = None,
    *,
    title: str = "perception3d",
    metrics: str = "",
    headline: Mapping[str, float] | None = None,
    classes: tuple[str, ...] = NUSCENES_CLASSES,
    min_score: float | None = None,
    extent_m: float = 54.0,
    max_points: int = 14_000,
    image_width_px: int = 640,
    jpeg_quality: int = 72,
) -> Path:
    """Write the page; about 0.35 MB a frame with six cameras at the default sizes.

    Args:
        path: The .html file; replaced whole.
        frames: Samples in playing order; read one by one, so a generator keeps the memory small.
        predictions: By token; a frame without one says so.
        title: Heading of the page.
        metrics: Plain text that the page can show, such as a metric table.
        headline: Figures for the page's head, by name.
        classes: Class names by label.
        min_score: Where the score slider starts; None chooses it by
            :func:`perception3d.viewer.drawable.balanced_score`. Predictions below
            :data:`LEAST_SCORE` (or this score, when it is smaller) are left out.
        extent_m: Half side of the square that the first view shows.
        max_points: Points kept a frame; the key sweep is preferred and spread evenly.
        image_width_px: Images are made at most this wide.
        jpeg_quality: 1 to 100.

    Returns:
        The path.

    Raises:
        ValueError: When there is no frame.
    """
    predictions = {} if predictions is None else predictions
    records: list[dict[str, Any]] = []
    truths: list[BoxArrays | None] = []
    scores: list[NDArray[Any]] = []
    least = LEAST_SCORE if min_score is None else min(min_score, LEAST_SCORE)
    common: dict[str, Any] = {}
    for frame in frames:
        prediction = predictions.get(frame.token)
        check_same_sample(frame, prediction)
        record = _frame_record(frame, classes, max_points, extent_m)
        record["cameras"] = _camera_records(frame, image_width_px, jpeg_quality)
        if prediction is not None:
            record["prediction"] = _box_records(prediction_arrays(prediction, classes, least))
            truths.append(truth_arrays(frame, classes))
            scores.append(to_numpy(prediction.score))
        common = common or _common_record(frame)
        records.append(record)
    if not records:
        raise ValueError("a page needs at least one frame; the selection is empty")
    data = {
        "title": title,
        "metrics": metrics,
        "headline": [[name, f"{value:.3f}"] for name, value in (headline or {}).items()],
        "extent_m": extent_m,
        "min_score": balanced_score(truths, scores) if min_score is None else min_score,
        "least_score": least,
        **_keys(classes),
        **common,
        "frames": records,
    }
    return write_bytes(path, _fill_template(title, data).encode())


def _keys(classes: tuple[str, ...]) -> dict[str, Any]:
    """Names and colours of classes, colours of points."""
    low, high = HEIGHT_RANGE_M
    steps = (np.arange(_RAMP_STEPS) + 0.5) / _RAMP_STEPS
    ramps = {
        "height": height_colors(low + steps * (high - low)).tolist(),
        # The stretch takes the root of a share of the top; squaring spaces the steps evenly.
        "intensity": intensity_colors(np.append(steps**2, np.ones(9)))[:_RAMP_STEPS].tolist(),
    }
    return {
        "classes": list(classes),
        "colors": [class_color(label, classes) for label in range(len(classes))],
        "height_range_m": HEIGHT_RANGE_M,
        "ramps": ramps,
    }


def _common_record(frame: Frame) -> dict[str, Any]:
    """What all frames of a data set share: the direction of `ref`, the own car, the map's key."""
    names = () if frame.map is None else frame.map.classes
    return {
        "turn": up_rotation(frame).reshape(-1).tolist(),
        "ego": ego_outline(frame).round(3).tolist(),
        "map_classes": [[entry.label, *entry.colors] for entry in map_entries(names)],
        "map_reach_m": 0 if frame.map is None else round(reach_m(frame.map.grid)),
    }


def _fill_template(title: str, data: dict[str, Any]) -> str:
    folder = resources.files("perception3d.viewer") / "assets"
    try:
        template = (folder / "page.html").read_text(encoding="utf-8")
        style = (folder / "page.css").read_text(encoding="utf-8")
        script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename} is missing from the installed package; install perception3d again "
            "(a wheel must carry perception3d/viewer/assets)"
        ) from error
    # "<" inside JSON strings could end the script element; the escape means the same to JSON.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": f'"use strict";\n{script}',
        "DATA": text,
    }
    # Split first: a placeholder's name inside a title or a log name must stay text.
    pieces = template.replace("{{", "\0").replace("}}", "\0").split("\0")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _frame_record(
    frame: Frame, classes: tuple[str, ...], max_points: int, extent_m: float
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "token": frame.token,
        "log": frame.log,
        "time_s": round(frame.time_ns / 1e9, 3),
        "num_points": 0 if frame.points is None else len(frame.points),
    }
    if frame.boxes is not None:
        record["truth"] = _box_records(box_arrays(frame.boxes, classes))
    if frame.points is not None and len(frame.points):
        record["points"] = _point_record(frame.points, max_points, 1.5 * extent_m)
    if frame.map is not None:
        record["map"] = _map_record(frame.map)
    return record


def _box_records(boxes: BoxArrays) -> list[dict[str, Any]]:
    records = []
    for i in range(len(boxes)):
        record: dict[str, Any] = {
            "at": boxes.center_m[i].round(2).tolist(),
            "size": boxes.size_lwh_m[i].round(2).tolist(),
            "yaw": round(float(boxes.yaw_rad[i]), 3),
            "label": int(boxes.label[i]),
        }
        if np.isfinite(boxes.velocity_mps[i]).all():
            record["velocity"] = boxes.velocity_mps[i].round(2).tolist()
        if boxes.score is not None:
            record["score"] = round(float(boxes.score[i]), 3)
        else:
            record["points"] = int(boxes.num_points[i])
        records.append(record)
    return records


def _point_record(points: PointCloud, max_points: int, reach_m: float) -> dict[str, Any]:
    xyz = to_numpy(points.xyz_m).astype(np.float64)
    kept = np.flatnonzero((np.abs(xyz[:, :2]) < min(reach_m, 32767 * _QUANTUM_M)).all(axis=1))
    kept = kept[thin_points(xyz[kept], to_numpy(points.age_s)[kept], max_points)]
    # Low points first: the browser paints in this order within a colour.
    kept = kept[np.argsort(xyz[kept, 2], kind="stable")]
    low, high = HEIGHT_RANGE_M
    intensity = to_numpy(points.intensity).astype(np.float64)[kept]
    top = max(float(np.percentile(intensity, 98)), 1e-9) if len(kept) else 1.0
    return {
        "unit_m": _QUANTUM_M,
        "xy": _base64((xyz[kept, :2] / _QUANTUM_M).round().astype("<i2").tobytes()),
        "height": _base64(_to_byte((xyz[kept, 2] - low) / (high - low)).tobytes()),
        "intensity": _base64(_to_byte(np.sqrt(np.clip(intensity / top, 0.0, 1.0))).tobytes()),
    }


def _to_byte(fraction: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (np.clip(fraction, 0.0, 1.0) * 255).round().astype(np.uint8)


def thin_points(
    xyz_m: NDArray[np.float64], age_s: NDArray[Any], max_points: int
) -> NDArray[np.int64]:
    """Choose at most ``max_points`` points: the youngest first, one a cell in ever coarser cells.

    Args:
        xyz_m: (N, 3) points.
        age_s: (N,) ages.
        max_points: Upper limit.

    Returns:
        (M,) indices, M <= max_points.
    """
    chosen = np.argsort(age_s, kind="stable")
    key_sweep = int((age_s <= 0.001).sum())
    # Older sweeps smear what moves; they only fill up a frame whose key sweep is sparse.
    chosen = chosen[: max(key_sweep, min(max_points, len(chosen)))]
    cell_m = 0.1
    while len(chosen) > max_points and cell_m < 2.0:
        cells = np.floor(xyz_m[chosen] / cell_m).astype(np.int64)
        cells -= cells.min(axis=0)
        # One number a cell: rows of three sort far more slowly.
        spans = cells.max(axis=0) + 1
        key = (cells[:, 0] * spans[1] + cells[:, 1]) * spans[2] + cells[:, 2]
        _, first = np.unique(key, return_index=True)
        chosen = chosen[np.sort(first)]
        cell_m *= 1.2
    return chosen[:max_points].astype(np.int64)


def _map_record(raster: MapRaster) -> dict[str, Any]:
    picture = paint_map(raster)
    # PNG wants plain colours; ours are multiplied by their opacity.
    plain = picture[..., :3] / np.maximum(picture[..., 3:], 1e-6)
    rgba = np.concatenate([plain, 255.0 * picture[..., 3:]], axis=-1)
    # The first row of a picture is its top: the largest y.
    image = np.ascontiguousarray(rgba[::-1].round().clip(0, 255).astype(np.uint8))
    return {
        "x_m": list(raster.grid.x_m),
        "y_m": list(raster.grid.y_m),
        "src": "data:image/png;base64," + _base64(encode_image(image, ".png", png_level=9)),
    }


def _camera_records(frame: Frame, width_px: int, quality: int) -> list[dict[str, Any]]:
    if frame.rig is None:
        return []
    import cv2

    matrices, azimuth = camera_matrices(frame.rig), camera_azimuths(frame)
    records = []
    for row, cameras in enumerate(camera_rows(frame)):
        for column, camera in enumerate(cameras):
            height, width = (int(n) for n in frame.rig.image_hw[camera].tolist())
            small = (min(width, width_px), max(1, round(height * min(width, width_px) / width)))
            resize = np.diag([small[0] / width, small[1] / height, 1.0])
            record: dict[str, Any] = {
                "name": frame.rig.names[camera],
                "row": row,
                "column": column,
                "azimuth": round(float(azimuth[camera]), 3),
                "width": small[0],
                "height": small[1],
                "matrix": [float(f"{v:.8g}") for v in (resize @ matrices[camera]).reshape(-1)],
            }
            if frame.images is not None:
                image = to_numpy(frame.images[camera])
                if image.shape[1] != small[0]:
                    image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
                jpeg = encode_image(image, ".jpg", quality=quality)
                record["src"] = "data:image/jpeg;base64," + _base64(jpeg)
            records.append(record)
    return records
