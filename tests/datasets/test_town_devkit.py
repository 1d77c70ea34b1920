"""The unmodified nuScenes devkit accepts the town: tables, pictures, map, evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
# The devkit's own warnings (pyplot figures, deprecations in its pins) are not ours to change.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

VERSION = "v1.0-town"
LAYERS = [
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
]


@pytest.fixture(scope="module")
def nusc(tiny_town: Path) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from nuscenes import NuScenes

    yield NuScenes(VERSION, str(tiny_town), verbose=False)
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def town_map(tiny_town: Path) -> Any:
    from nuscenes.map_expansion.map_api import NuScenesMap

    return NuScenesMap(str(tiny_town), "boston-seaport")


@pytest.fixture
def place(nusc: Any) -> tuple[float, float]:
    """Where the recording car is in the fourth key frame."""
    lidar = nusc.get("sample_data", nusc.sample[3]["data"]["LIDAR_TOP"])
    x, y, _ = nusc.get("ego_pose", lidar["ego_pose_token"])["translation"]
    return x, y


def test_tables_load(nusc: Any) -> None:
    assert len(nusc.category) == 23
    assert len(nusc.attribute) == 8
    assert len(nusc.scene) == 2
    assert {s["data"].keys() == nusc.sample[0]["data"].keys() for s in nusc.sample} == {True}
    assert len(nusc.sample[0]["data"]) == 7


def test_scene_chains_are_complete(nusc: Any) -> None:
    for scene in nusc.scene:
        token, count = scene["first_sample_token"], 0
        while token:
            last, token = token, nusc.get("sample", token)["next"]
            count += 1
        assert count == scene["nbr_samples"]
        assert last == scene["last_sample_token"]
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            last, token = token, nusc.get("sample_annotation", token)["next"]
            count += 1
        assert count == instance["nbr_annotations"]
        assert last == instance["last_annotation_token"]


def test_pictures_are_drawn(nusc: Any, tmp_path: Path) -> None:
    sample = nusc.sample[3]
    camera = tmp_path / "camera.png"
    nusc.render_sample_data(sample["data"]["CAM_FRONT"], out_path=str(camera), verbose=False)
    lidar = tmp_path / "lidar.png"
    nusc.render_sample_data(
        sample["data"]["LIDAR_TOP"],
        nsweeps=5,
        underlay_map=True,
        out_path=str(lidar),
        verbose=False,
    )
    overlay = tmp_path / "overlay.png"
    nusc.render_pointcloud_in_image(
        sample["token"], camera_channel="CAM_BACK", out_path=str(overlay)
    )
    assert min(path.stat().st_size for path in (camera, lidar, overlay)) > 10_000


@pytest.fixture
def figures() -> Iterator[Any]:
    """matplotlib.pyplot, with no figure left open before or after."""
    import matplotlib.pyplot as plt

    plt.close("all")
    yield plt
    plt.close("all")


def test_a_sample_is_drawn_whole(nusc: Any, figures: Any, tmp_path: Path) -> None:
    path = tmp_path / "sample.png"
    nusc.render_sample(nusc.sample[3]["token"], out_path=str(path), verbose=False)
    drawn = [ax for ax in figures.gcf().axes if ax.get_title() or ax.images or ax.lines]
    assert len(drawn) >= 7, "six cameras and the LiDAR"
    assert path.stat().st_size > 100_000


def test_a_box_and_an_object_are_drawn(nusc: Any, figures: Any, tmp_path: Path) -> None:
    # Seen by a camera: the devkit draws a box into the first camera that shows it.
    box = next(
        row
        for row in nusc.sample_annotation
        if row["category_name"] == "vehicle.car" and row["visibility_token"] == "4"
    )
    annotation = tmp_path / "annotation.png"
    nusc.render_annotation(box["token"], out_path=str(annotation))
    assert len(figures.gcf().axes) == 2, "LiDAR and camera"
    instance = tmp_path / "instance.png"
    nusc.render_instance(box["instance_token"], out_path=str(instance))
    assert min(path.stat().st_size for path in (annotation, instance)) > 10_000


def test_multisweep_points(nusc: Any) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud

    cloud, times = LidarPointCloud.from_file_multisweep(
        nusc, nusc.sample[3], "LIDAR_TOP", "LIDAR_TOP", nsweeps=10
    )
    assert cloud.points.shape[1] > 150_000
    assert np.allclose(np.unique(times.round(3)), np.arange(10) * 0.05, atol=1e-3)


def test_point_counts_are_those_of_the_written_file(nusc: Any) -> None:
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    for sample in nusc.sample[1:3]:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            found = int(points_in_box(box, points).sum())
            stated = nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            # Points on a face may fall on either side once rounded through two frames.
            assert abs(found - stated) <= max(2, 0.02 * stated), box.name


def test_map_masks(town_map: Any, place: tuple[float, float]) -> None:
    layers = [*LAYERS, "road_divider", "lane_divider"]  # the devkit makes no mask of the lights
    mask = town_map.get_map_mask((*place, 100, 100), 0, layers, (200, 200))
    assert mask.shape == (len(layers), 200, 200)
    assert mask[0].mean() > 0.1, "drivable area"
    assert (mask[1:4].any(0) <= (mask[0] + mask[7]).astype(bool)).mean() > 0.98
    for name, layer in zip(layers[:6], mask[:6], strict=True):
        assert layer.any(), name
    assert mask[8].any(), "road divider"


def test_map_mask_across_the_canvas_edge(town_map: Any) -> None:
    """A patch half outside: nothing there, and inside the same as in a patch that lies inside."""
    across = town_map.get_map_mask((0, 150, 200, 200), 0, LAYERS, (400, 400))
    inside = town_map.get_map_mask((50, 150, 200, 100), 0, LAYERS, (400, 200))
    assert across.shape == (len(LAYERS), 400, 400)
    assert not across[:, :, :200].any()
    assert across[0].any()
    # Corners are rounded to pixels of the patch, so outlines may differ by one.
    assert (across[:, :, 200:] == inside).mean() > 0.995


def test_map_mask_of_the_whole_canvas(town_map: Any) -> None:
    """Without a patch the devkit takes the 2979.5 m x 2118.1 m that it knows for the location."""
    layers = town_map.get_map_mask(None, 0, LAYERS, (2118, 2980))
    assert layers.shape == (len(LAYERS), 2118, 2980)
    assert layers.any((1, 2)).all()
    fine = town_map.get_map_mask(None, 0, LAYERS[:1], None)  # 0.6 GB
    assert fine.shape == (1, 21181, 29795)
    assert fine.mean() == pytest.approx(layers[0].mean(), rel=0.1)


def test_map_questions(town_map: Any, place: tuple[float, float]) -> None:
    assert town_map.layers_on_point(*place)["drivable_area"]
    lane = town_map.get_closest_lane(*place, radius=4)
    assert lane
    assert town_map.get_arcline_path(lane)
    assert town_map.get_outgoing_lane_ids(lane)
    assert set(town_map.get_next_roads(*place)) >= {"lane", "road_block"}
    outside = town_map.layers_on_point(5.0, 5.0)
    assert not outside["drivable_area"]


def test_map_file_has_all_keys_and_records(tiny_town: Path) -> None:
    document = json.loads((tiny_town / "maps/expansion/boston-seaport.json").read_text())
    assert len(document) == 19
    assert document["version"] >= "1.3"
    assert all(document.values()), [k for k, v in document.items() if not v]


def test_boxes_stand_on_the_ground_plan(nusc: Any, town_map: Any) -> None:
    """Vehicles in traffic stand on drivable ground, people on foot mostly do not."""
    for annotation in nusc.sample_annotation[::7]:
        names = [nusc.get("attribute", t)["name"] for t in annotation["attribute_tokens"]]
        if names and names[0] in ("vehicle.moving", "vehicle.stopped"):
            x, y, _ = annotation["translation"]
            assert town_map.layers_on_point(x, y, ["drivable_area"])["drivable_area"]


@pytest.mark.parametrize("split", ["town_train", "town_val"])
def test_perfect_predictions_score_one(
    nusc: Any, tiny_town: Path, tmp_path: Path, split: str
) -> None:
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    names = json.loads((tiny_town / VERSION / "splits.json").read_text())[split]
    results = perfect_results(nusc, names)
    submission = {
        "meta": dict.fromkeys(["use_lidar", "use_camera"], True)
        | dict.fromkeys(["use_radar", "use_map", "use_external"], False),
        "results": results,
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(submission))
    evaluation = DetectionEval(
        nusc, config_factory("detection_cvpr_2019"), str(path), split, str(tmp_path), verbose=False
    )
    metrics, _ = evaluation.evaluate()
    counts = Counter(box.detection_name for box in evaluation.gt_boxes.all)
    assert len(counts) == 10, "the town holds every class in every split"
    summary = metrics.serialize()
    assert summary["mean_dist_aps"] == pytest.approx(dict.fromkeys(counts, 1.0))
    assert summary["tp_errors"] == pytest.approx(dict.fromkeys(summary["tp_errors"], 0.0), abs=1e-6)
    assert len(summary["tp_errors"]) == 5
    assert summary["mean_ap"] == pytest.approx(1.0)
    assert summary["nd_score"] == pytest.approx(1.0)
    # The generator's own count, by which it refuses a town, is the evaluator's.
    stamp = json.loads((tiny_town / "town.json").read_text())
    assert dict(counts) == stamp["learnable_boxes"][split]


def perfect_results(nusc: Any, scenes: list[str]) -> dict[str, list[dict]]:
    """Predictions that repeat the ground truth with LiDAR points."""
    from nuscenes.eval.detection.utils import category_to_detection_name

    results: dict[str, list[dict]] = {}
    wanted = {s["token"] for s in nusc.scene if s["name"] in scenes}
    for sample in (s for s in nusc.sample if s["scene_token"] in wanted):
        boxes = results.setdefault(sample["token"], [])
        for token in sample["anns"]:
            truth = nusc.get("sample_annotation", token)
            name = category_to_detection_name(truth["category_name"])
            if name is None or truth["num_lidar_pts"] == 0:
                continue
            attributes = [nusc.get("attribute", t)["name"] for t in truth["attribute_tokens"]]
            boxes.append(
                {
                    "sample_token": sample["token"],
                    "translation": truth["translation"],
                    "size": truth["size"],
                    "rotation": truth["rotation"],
                    "velocity": np.nan_to_num(nusc.box_velocity(token)[:2]).tolist(),
                    "detection_name": name,
                    "detection_score": 0.5,
                    "attribute_name": attributes[0] if attributes else "",
                }
            )
    return results
