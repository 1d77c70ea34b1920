"""Every config builds, and its model has about the parameters it should have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception3d.engine.config_file import load_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SIZES = ("town", "base")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a small data set: configs look at splits and class counts, not at sensor files."""
    from tests.datasets.nuscenes_fixture import make_dataset

    root = tmp_path_factory.mktemp("tables")
    make_dataset(root)
    return root


@pytest.mark.parametrize("sensors", ("fusion", "lidar", "camera"))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_builds(path: Path, size: str, sensors: str, dataset: Path) -> None:
    experiment = load_config(path).build({"data": str(dataset), "size": size, "sensors": sensors})
    with torch.device("meta"):
        model = experiment.model()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    low, high = (0.5, 4.0) if size == "town" else (8.0, 60.0)
    assert low < millions < high, f"{millions:.2f} M parameters"
    assert experiment.val is not None
    assert len(experiment.train().dataset) > 0
    assert experiment.val().tokens


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_says_how_to_run_it(path: Path) -> None:
    source = path.read_text()
    assert f"tools/train.py {path.relative_to(ROOT)}" in source
    knobs = load_config(path).knobs
    assert {"data", "epochs", "lr", "seed"} <= set(knobs)
    for name in knobs:
        assert f"        {name}: " in source, f"{path.name} does not explain --{name}"


def test_learned_queries_are_the_default_of_the_published_size(dataset: Path) -> None:
    config = load_config(ROOT / "configs" / "cmt_fusion.py")
    for size, source in (("base", "LearnedQueries"), ("town", "HeatmapQueries")):
        with torch.device("meta"):
            model = config.build({"data": str(dataset), "size": size}).model()
        assert type(model.queries).__name__ == source
