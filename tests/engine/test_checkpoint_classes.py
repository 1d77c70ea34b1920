"""A checkpoint that was trained on other classes, or in another order, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from perception3d.engine.checkpoints import classes_of_pickle
from perception3d.engine.published import import_published
from perception3d.structures.taxonomy import NUSCENES_CLASSES
from tests.engine.test_published import state_of

#: mmdetection3d's own order, which its older models and its info files have.
MMDET3D = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle",
    "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip


def metas(classes: Any) -> dict[str, dict[str, Any]]:
    return {
        "mmcv": {"meta": {"CLASSES": classes}},
        "mmengine": {"meta": {"dataset_meta": {"classes": classes}}},
    }


@pytest.mark.parametrize("writer", ["mmcv", "mmengine"])
@pytest.mark.parametrize("classes", [MMDET3D, NUSCENES_CLASSES[:3]], ids=["order", "fewer"])
def test_other_classes_are_refused(classes: tuple[str, ...], writer: str, tmp_path: Path) -> None:
    source, target = tmp_path / "p.pth", tmp_path / "ours.safetensors"
    torch.save({"state_dict": state_of("pillarnest"), **metas(list(classes))[writer]}, source)
    with pytest.raises(ValueError, match=rf"trained on {len(classes)} classes \(car, truck, .*10"):
        import_published(source, target)
    assert not target.exists()


@pytest.mark.parametrize("writer", ["mmcv", "mmengine"])
def test_our_classes_are_taken(writer: str, tmp_path: Path) -> None:
    source, target = tmp_path / "p.pth", tmp_path / "ours.safetensors"
    torch.save({"state_dict": state_of("pillarnest"), **metas(NUSCENES_CLASSES)[writer]}, source)
    assert classes_of_pickle(source) == NUSCENES_CLASSES
    assert len(import_published(source, target).state) == 451


@pytest.mark.parametrize(
    "content", [{"meta": None}, {"meta": {}}, {"meta": {"CLASSES": "car"}}, {}, [1]], ids=str
)
def test_a_checkpoint_need_not_say(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "p.pth")
    assert classes_of_pickle(tmp_path / "p.pth") is None
