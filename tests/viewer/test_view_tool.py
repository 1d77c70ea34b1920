from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from perception3d.viewer.conventions import draw_conventions, example_frame

ROOT = Path(__file__).parent.parent.parent
REAL = Path(os.environ.get("PERCEPTION3D_REALDATA", ROOT.parent / "shared" / "realdata"))
FRAME = REAL / "nuscenes_frame" / "frame.json"
needs_frame = pytest.mark.skipif(not FRAME.is_file(), reason=f"no real key frame at {FRAME}")


@needs_frame
def test_each_verb_draws_the_real_frame(view: ModuleType, tmp_path: Path) -> None:
    source = ["--data", str(FRAME)]
    small = ["--tile-width-px", "200", "--points"]
    assert view.main(["bev", *source, "--out", str(tmp_path / "bev.png")]) == 0
    assert view.main(["cameras", *source, *small, "--out", str(tmp_path / "cameras.jpg")]) == 0
    assert view.main(["scene", *source, "--save", str(tmp_path / "scene.ply")]) == 0
    assert view.main(["page", *source, "--out", str(tmp_path / "page.html")]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"bev.png", "cameras.jpg", "scene.ply", "scene_boxes.ply", "page.html"}


@needs_frame
def test_results_of_another_data_set_are_refused(
    view: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"meta": {}, "results": {"foreign_token": []}}))
    assert view.main(["bev", "--data", str(FRAME), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert "lacks 1 of 1 samples: ca9a282c9e77460f8360f564131a8af5" in error
    assert "foreign_token" in error and "Traceback" not in error


@pytest.mark.parametrize("data", ["nowhere", "nowhere.json"])
def test_missing_data_is_an_error_in_one_line(
    view: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    assert view.main(["bev", "--data", str(tmp_path / data), "--split", "val"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and data in error


def test_the_conventions_picture_shows_the_example() -> None:
    image = draw_conventions()
    assert image.shape == (900, 1400, 3)
    assert image[0, 0].tolist() == [255, 255, 255] and (image < 100).any()
    frame = example_frame()
    assert frame.rig is not None and frame.boxes is not None
    # The example box stands before the camera, right of the optical axis.
    uv, depth = frame.rig.project(frame.boxes.center_m)
    assert depth[0, 0] > 5 and uv[0, 0, 0] > 400
    # ref x is the ego frame's right side.
    assert np.allclose(frame.ego_SE3_ref.rotation @ np.array([1.0, 0, 0]), [0, -1, 0])
