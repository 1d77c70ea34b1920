"""Every verb of tools/view.py on a generated data set, with results, maps and all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from perception3d.evaluation.metrics import DetectionMetrics
from perception3d.evaluation.rules import Modalities
from perception3d.evaluation.submission import SubmissionWriter
from perception3d.structures import Prediction
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from perception3d.viewer.colors import class_color

pytestmark = pytest.mark.slow  # Making the town takes most of a minute.
ROOT = Path(__file__).parent.parent.parent
# Devkits, Open3D and the trainer are optional: pictures must not import them.
BLOCKED = ("nuscenes", "av2", "open3d", "lightning", "pytorch_lightning")


@pytest.fixture(scope="module")
def results(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth as a results file, moved half a metre, at scores that fall from 0.9."""
    from dataclasses import replace

    from perception3d.datasets.nuscenes import NuScenesFrames

    path = tmp_path_factory.mktemp("results") / "results.json"
    frames = NuScenesFrames(tiny_town, "town_val", cameras=(), load_points=False)
    with SubmissionWriter(path, Modalities(lidar=True)) as writer:
        for frame in frames:
            boxes = frame.boxes.select(frame.boxes.label >= 0)
            moved = replace(boxes, center_m=boxes.center_m + 0.5)
            score = 0.9 - 0.005 * np.arange(len(boxes))
            score = boxes.center_m.new_tensor(np.maximum(score, 0.05))
            poses = (frame.global_SE3_ref, frame.ego_SE3_ref)
            writer.add(Prediction(frame.token, moved, score, *poses))
    return path


@pytest.fixture
def source(tiny_town: Path, results: Path) -> list[str]:
    return ["--data", str(tiny_town), "--split", "town_val", "--results", str(results)]


def colored(path: Path) -> set[str]:
    """Classes whose colour is seen in the upper nine tenths of a picture, without the legend."""
    image = cv2.imread(str(path))[..., ::-1].astype(int)
    image = image[: image.shape[0] * 9 // 10]
    return {
        name
        for label, name in enumerate(NUSCENES_CLASSES)
        if (np.abs(image - class_color(label, NUSCENES_CLASSES)) < 10).all(axis=2).sum() > 30
    }


def test_bev_shows_truth_beside_prediction(
    view: ModuleType, source: list[str], tmp_path: Path
) -> None:
    assert view.main(["bev", *source, "--out", str(tmp_path / "bev.png")]) == 0
    image = cv2.imread(str(tmp_path / "bev.png"))
    assert image.shape[1] == 1808
    assert {"car", "pedestrian"} <= colored(tmp_path / "bev.png")
    # The same places on both sides but for half a metre and what lies out of range.
    left, right = (image[100:900, u : u + 900].astype(int) for u in (0, 908))
    assert (left != right).any(axis=2).mean() < 0.2


def test_cameras_show_truth_above_prediction(
    view: ModuleType, source: list[str], tmp_path: Path
) -> None:
    small = ["--tile-width-px", "320"]
    both, one = tmp_path / "both.png", tmp_path / "one.png"
    assert view.main(["cameras", *source, *small, "--out", str(both)]) == 0
    overlay = ["--layout", "overlay", "--points", "--no-labels"]
    assert view.main(["cameras", *source, *small, *overlay, "--out", str(one)]) == 0
    assert cv2.imread(str(both)).shape[0] > 1.6 * cv2.imread(str(one)).shape[0]
    assert "car" in colored(both) and "car" in colored(one)


def test_page_heads_with_the_metrics(view: ModuleType, source: list[str], tmp_path: Path) -> None:
    metrics, page = tmp_path / "metrics.json", tmp_path / "page.html"
    errors = dict.fromkeys(("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"), 0.5)
    aps, name = {"car": {2.0: 0.7}}, ("town_val", "v1.0-town")
    evaluated = DetectionMetrics(0.1234, 0.25, errors, aps, {"car": errors}, *name, 6, 1.0)
    metrics.write_text(evaluated.to_json())
    arguments = ["page", *source, "--count", "2", "--metrics", str(metrics), "--out", str(page)]
    assert view.main(arguments) == 0
    text = page.read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["headline"][:2] == [["mAP", "0.123"], ["NDS", "0.250"]]
    assert "AP@2" in data["metrics"] and len(data["frames"]) == 2
    assert all(frame["prediction"] and frame["map"] for frame in data["frames"])
    assert 0.1 <= data["min_score"] <= 0.4


def test_scene_without_a_display_becomes_a_picture(
    view: ModuleType,
    source: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.chdir(tmp_path)
    status = view.main(["scene", *source])
    if status == 2:  # Where Open3D cannot draw, the message says what to install.
        error = capsys.readouterr().err
        assert "pip install 'perception3d[view]'" in error and "apt-get install" in error
        pytest.skip(error)
    assert status == 0
    picture = tmp_path / "scene.png"
    image = cv2.imread(str(picture))
    assert image.shape[0] > 900 and image.std() > 10
    assert len(colored(picture)) >= 3


def test_scene_is_saved_for_other_programs(
    view: ModuleType, source: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "scene.ply"
    assert view.main(["scene", *source, "--frame", "3", "--sweeps", "3", "--save", str(path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.ply", "scene_boxes.ply"]
    header = path.read_bytes()[:400].decode("ascii", "replace")
    count = int(header.split("element vertex ")[1].split()[0])
    assert count > 40_000  # Three sweeps.
    boxes = (tmp_path / "scene_boxes.ply").read_bytes()[:600].decode("ascii", "replace")
    assert "comment truth dashed" in boxes and "comment prediction solid" in boxes


def test_a_missing_map_is_noted_with_what_to_do(
    view: ModuleType, tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for part in ("v1.0-town", "samples", "sweeps"):
        (bare / part).symlink_to(tiny_town / part)
    source = ["--data", str(bare), "--split", "town_val", "--size-px", "300"]
    assert view.main(["bev", *source, "--out", str(tmp_path / "bev.png")]) == 0
    note = capsys.readouterr().err
    assert "no map is drawn" in note and "boston-seaport.json is missing" in note
    assert "nuScenes-map-expansion-v1.3.zip" in note and "nuscenes.org" in note
    assert view.main(["bev", *source, "--no-map", "--out", str(tmp_path / "bev.png")]) == 0
    assert capsys.readouterr().err == ""


def test_pictures_need_neither_devkits_nor_open3d_nor_the_trainer(
    source: list[str], tmp_path: Path
) -> None:
    script = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
sys.path.insert(0, {str(ROOT / "tools")!r})
import view
source, folder = {source!r}, {str(tmp_path)!r}
for verb, *more in (
    ("bev", "--out", folder + "/bev.png"),
    ("cameras", "--tile-width-px", "200", "--out", folder + "/cameras.png"),
    ("page", "--count", "1", "--out", folder + "/page.html"),
    ("scene", "--save", folder + "/scene.ply"),
):
    status = view.main([verb, *source, *more])
    assert status == 0, (verb, status)
loaded = {{name.split(".")[0] for name in sys.modules}} & set({BLOCKED!r})
assert not loaded, loaded
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names >= {"bev.png", "cameras.png", "page.html", "scene.ply", "scene_boxes.ply"}
