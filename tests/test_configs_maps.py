"""Maps in the configs: with and without the map expansion, augmentation, thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from perception3d.datasets.nuscenes.map_layers import SceneWithMap
from perception3d.engine.config_file import load_config
from perception3d.engine.experiment import Experiment
from perception3d.engine.objective import total_loss
from perception3d.evaluation.map_iou import THRESHOLDS, MapIouEvaluator

ROOT = Path(__file__).parent.parent


def build(name: str, data: Path, **knobs: Any) -> Experiment:
    return load_config(ROOT / "configs" / f"{name}.py").build({"data": str(data), **knobs})


@pytest.fixture
def bare_town(tiny_town: Path, tmp_path: Path) -> Path:
    """The town without its maps."""
    for part in ("v1.0-town", "samples", "sweeps"):
        (tmp_path / part).symlink_to(tiny_town / part)
    return tmp_path


def test_without_the_map_expansion_the_error_says_what_to_do(bare_town: Path) -> None:
    samples = build("fuller_joint", bare_town, tasks="det,map").train()
    with pytest.raises(FileNotFoundError, match=r"boston-seaport\.json is missing") as error:
        samples.dataset[0]
    assert "nuScenes map expansion pack v1.3 (nuScenes-map-expansion-v1.3.zip" in str(error.value)
    assert f"unpack it into {bare_town / 'maps'}" in str(error.value)
    assert "--tasks det learns boxes alone" in str(error.value)


@pytest.mark.slow
def test_boxes_are_learned_without_the_map_expansion(bare_town: Path) -> None:
    experiment = build("fuller_joint", bare_town, tasks="det")
    samples = experiment.train()
    batch = samples.collate([samples.dataset[0]])
    assert batch.map is None
    torch.manual_seed(0)
    model = experiment.model().train()
    loss = total_loss(model.loss(model(batch), batch), model.rule)
    loss.backward()
    assert torch.isfinite(loss) and float(loss.detach()) > 0


@pytest.mark.parametrize("apply_scale", [True, False])
def test_maps_and_scene_change_in_one_step(apply_scale: bool, dataset: Path) -> None:
    knobs: dict[str, Any] = {} if apply_scale else {"map_apply_scale": False}
    samples = build("fuller_joint", dataset, size="published", mask_sensors=True, **knobs).train()
    steps = samples.dataset.transform.transforms  # type: ignore[attr-defined]
    assert [type(step).__name__ for step in steps] == [
        "ModalMask", "SceneWithMap", "MinPointsFilter", "RangeFilter", "ClassFilter",
        "PointShuffle", "ImageAugment",
    ]  # fmt: skip
    both = steps[1]
    assert isinstance(both, SceneWithMap) and both.apply_scale == apply_scale
    assert both.scene.scale == (0.9, 1.1) and both.layers.grid.nx == both.layers.grid.ny == 200
    samples = build("fuller_joint", dataset, size="published", tasks="det").train()
    steps = samples.dataset.transform.transforms  # type: ignore[attr-defined]
    assert [type(step).__name__ for step in steps][:2] == ["GlobalAugment", "MinPointsFilter"]


def test_each_config_scores_maps_as_its_publication(dataset: Path, tmp_path: Path) -> None:
    def thresholds(name: str, **knobs: Any) -> tuple[float, ...]:
        scores = build(name, dataset, **knobs).evaluators[-1](tmp_path)
        assert isinstance(scores, MapIouEvaluator)
        return scores.thresholds

    assert thresholds("fuller_joint") == THRESHOLDS
    assert thresholds("fuller_joint", map_threshold=0.5) == (0.5,)
    assert thresholds("petrv2_bevseg") == (0.43,)
