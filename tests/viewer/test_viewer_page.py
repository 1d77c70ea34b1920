from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from perception3d.structures import BEVGrid, MapRaster, PointCloud
from perception3d.viewer.colors import map_color
from perception3d.viewer.outlines import visible_edges
from perception3d.viewer.page import SCRIPTS, thin_points, write_page

Make = Callable[..., Any]


class Page(HTMLParser):
    """Collect the text of script elements and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.links: list[str] = []
        self._name: str | None = None
        self.feed(text)
        self.close()
        self.data = json.loads(self.scripts["data"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [str(values[key]) for key in ("src", "href") if key in values]
        self._name = (values.get("id") or "code") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._name = None

    def handle_data(self, data: str) -> None:
        if self._name is not None:
            self.scripts[self._name] = self.scripts.get(self._name, "") + data


def write(tmp_path: Path, *frames: Any, **knobs: Any) -> tuple[Page, str]:
    text = write_page(tmp_path / "page.html", iter(frames), **knobs).read_text(encoding="utf-8")
    return Page(text), text


def test_page_holds_every_frame_and_fetches_nothing(
    tmp_path: Path, make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    boxes = make_boxes((2.0, 15.0, 0.3, 1.0, 2.0), (5.0, 5.0, 0.0, float("nan"), 0.0))
    frames = [
        make_frame(token=f"token{i}", boxes=boxes, points=[(1.0, 2.0, 0.5)], with_images=True)
        for i in range(3)
    ]
    predictions = {"token1": make_prediction(frames[1], boxes, 0.9, 0.3)}
    page, text = write(tmp_path, *frames, predictions=predictions, metrics="mAP 0.5")
    assert [frame["token"] for frame in page.data["frames"]] == ["token0", "token1", "token2"]
    assert [("prediction" in frame) for frame in page.data["frames"]] == [False, True, False]
    assert page.data["metrics"] == "mAP 0.5"
    first, second = page.data["frames"][1]["truth"]
    assert first["at"] == [2.0, 15.0, 0.0] and first["velocity"] == [1.0, 2.0]
    assert "velocity" not in second
    assert sorted(b["score"] for b in page.data["frames"][1]["prediction"]) == [0.3, 0.9]
    assert page.links == []
    assert not re.search(r"https?://|@import|url\(", text)


def test_points_survive_quantisation(tmp_path: Path, make_frame: Make) -> None:
    points = [(1.234, -20.005, 0.5), (-53.0, 53.9, -1.0), (200.0, 0.0, 0.0)]
    page, _ = write(tmp_path, make_frame(points=points))
    record = page.data["frames"][0]["points"]
    xy = np.frombuffer(base64.b64decode(record["xy"]), "<i2").reshape(-1, 2) * record["unit_m"]
    # Sorted by height; the point out of reach is left out.
    assert np.abs(xy - np.array([points[1][:2], points[0][:2]])).max() <= 0.0026
    assert len(base64.b64decode(record["height"])) == 2


def test_images_and_matrices_are_scaled_alike(tmp_path: Path, make_frame: Make) -> None:
    frame = make_frame(with_images=True)
    page, _ = write(tmp_path, frame, image_width_px=80)
    camera = next(c for c in page.data["frames"][0]["cameras"] if c["name"] == "CAM_FRONT")
    assert (camera["row"], camera["column"]) == (0, 1)
    jpeg = np.frombuffer(base64.b64decode(camera["src"].split(",")[1]), np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (45, 80, 3)
    point = torch.tensor([[1.0, 10.0, -0.5]])
    homogeneous = np.array(camera["matrix"]).reshape(3, 4) @ np.append(point.numpy()[0], 1.0)
    uv = frame.rig.project(point)[0][0, 0].numpy()
    assert np.allclose(homogeneous[:2] / homogeneous[2] * 2, uv, atol=1e-4)


def test_map_picture_has_large_y_first(tmp_path: Path, make_frame: Make) -> None:
    grid = BEVGrid((-40.0, 40.0), (-20.0, 20.0), (-5.0, 3.0), 1.0)
    mask = torch.zeros(1, grid.ny, grid.nx, dtype=torch.bool)
    mask[0, 29, 12] = True  # y from 9 to 10, x from -28 to -27.
    page, _ = write(tmp_path, make_frame(map=MapRaster(mask, ("walkway",), grid)))
    png = base64.b64decode(page.data["frames"][0]["map"]["src"].split(",")[1])
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (40, 80, 4)
    opacity = picture[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape) == (10, 12)
    assert np.abs(picture[10, 12, 2::-1].astype(int) - map_color("walkway")).max() <= 3
    assert [name for name, *_ in page.data["map_classes"]] == ["walkway"]
    assert page.data["map_reach_m"] == 20


def test_the_page_starts_at_a_score_that_fits_and_heads_with_figures(
    tmp_path: Path, make_frame: Make, make_boxes: Make, make_prediction: Make
) -> None:
    frame = make_frame(boxes=make_boxes((2.0, 15.0, 0.3), (5.0, 5.0, 0.0)))
    rows = [(2.0, 15.0 + i, 0.3) for i in range(5)]
    prediction = make_prediction(frame, make_boxes(*rows), 0.6, 0.3, 0.2, 0.06, 0.03)
    given = {"predictions": {"sample": prediction}, "headline": {"mAP": 0.12345, "NDS": 1.0}}
    page, _ = write(tmp_path, frame, **given)
    assert page.data["min_score"] == 0.3
    assert page.data["headline"] == [["mAP", "0.123"], ["NDS", "1.000"]]
    shares = [box["score"] for box in page.data["frames"][0]["prediction"]]
    assert sorted(shares) == [0.06, 0.2, 0.3, 0.6]
    page, _ = write(tmp_path, frame, min_score=0.01, **given)
    assert page.data["min_score"] == 0.01 and len(page.data["frames"][0]["prediction"]) == 5


def test_names_cannot_break_out_of_the_page(tmp_path: Path, make_frame: Make) -> None:
    name = "</script><b>{{DATA}}&\0"
    page, text = write(tmp_path, make_frame(token=name), title="<i>{{SCRIPT}}</i>")
    assert page.data["frames"][0]["token"] == name
    assert "<title>&lt;i&gt;{{SCRIPT}}&lt;/i&gt;</title>" in text


def test_bare_frames_make_a_page(tmp_path: Path, make_frame: Make) -> None:
    page, _ = write(tmp_path, make_frame())
    assert page.data["frames"][0]["cameras"] == []
    assert not {"points", "truth", "prediction", "map"} & set(page.data["frames"][0])
    with pytest.raises(ValueError, match="at least one frame"):
        write_page(tmp_path / "none.html", [])


def test_full_frames_stay_small(tmp_path: Path, make_frame: Make, make_boxes: Make) -> None:
    rng = np.random.default_rng(0)
    xyz = torch.from_numpy(rng.uniform(-50, 50, (30_000, 3)).astype(np.float32))
    cloud = PointCloud(xyz, torch.ones(30_000), torch.zeros(30_000))
    frame = replace(make_frame(boxes=make_boxes(*[(0.0, 9.0, 0.1)] * 60)), points=cloud)
    path = write_page(tmp_path / "page.html", [frame] * 10)
    # Six JPEG images of 640 x 360 add about 0.2 MB a frame.
    assert path.stat().st_size < 2.5e6


def test_thinning_keeps_the_key_sweep_first() -> None:
    rng = np.random.default_rng(1)
    xyz = rng.uniform(-30, 30, (5000, 3))
    age = np.repeat([0.0, 0.05], 2500)
    assert set(thin_points(xyz, age, 2500)) == set(range(2500))
    few = thin_points(xyz, age, 700)
    assert len(few) <= 700 and len(set(few)) == len(few) and few.max() < 2500
    assert len(thin_points(xyz[:10], age[:10], 700)) == 10


def test_scripts_are_installed_with_the_package() -> None:
    folder = resources.files("perception3d.viewer") / "assets"
    assert all((folder / name).is_file() for name in (*SCRIPTS, "page.html", "page.css"))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_browser_cuts_boxes_like_python(
    tmp_path: Path, make_frame: Make, make_boxes: Make
) -> None:
    boxes = make_boxes((2.0, 15.0, 0.3), (2.5, 0.5, np.pi / 2), (0.5, -9.0, 1.0), (9.0, 9.0, 2.0))
    frame = make_frame(with_rig=True, boxes=boxes)
    page, _ = write(tmp_path, frame)
    camera = next(c for c in page.data["frames"][0]["cameras"] if c["name"] == "CAM_FRONT")
    script = (resources.files("perception3d.viewer") / "assets" / "geometry.js").read_text()
    (tmp_path / "try.js").write_text(
        f"{script}\nconst camera = {json.dumps(camera)};\n"
        f"const boxes = {json.dumps(page.data['frames'][0]['truth'])};\n"
        "const limits = limitsOf(camera.width, camera.height), out = [];\n"
        "for (const box of boxes) {\n"
        "  const points = corners(box).map(p => toHomogeneous(p, camera.matrix));\n"
        "  for (const [a, b] of EDGES) {\n"
        "    const cut = cutSegment(points[a], points[b], limits);\n"
        "    if (cut) out.push(cut.map(toPixel));\n"
        "  }\n}\nconsole.log(JSON.stringify(out));\n"
    )
    command = ["node", str(tmp_path / "try.js")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = np.array(json.loads(done.stdout))
    front = frame.rig.ref_to_image()[frame.rig.names.index("CAM_FRONT")].numpy()
    wanted, _ = visible_edges(boxes.corners().numpy(), front, (90, 160))

    def table(segments: np.ndarray) -> np.ndarray:
        # Ends in one order, then segments in one order; sizes and places are rounded to 1 cm.
        ordered = np.array([sorted(s.round(1).tolist()) for s in segments]).reshape(-1, 4)
        return ordered[np.lexsort(ordered.T)]

    assert len(found) == len(wanted)
    distance = np.abs(table(found)[:, None] - table(wanted)[None]).max(axis=2)
    assert (distance.min(axis=0) < 0.5).all() and (distance.min(axis=1) < 0.5).all()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_script_parses(tmp_path: Path, make_frame: Make) -> None:
    page, _ = write(tmp_path, make_frame())
    (tmp_path / "page.js").write_text(page.scripts["code"])
    command = ["node", "--check", str(tmp_path / "page.js")]
    assert subprocess.run(command, capture_output=True).returncode == 0
