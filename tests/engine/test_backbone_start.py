"""Runs, and the tool, that begin with a pre-trained backbone."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from perception3d.backbones.bev_convnext import BEVConvNeXt
from perception3d.engine.backbone_weights import BackboneWeights
from perception3d.engine.checkpoints import read_weights
from perception3d.engine.launch import Launch
from perception3d.engine.optim import AdamWSettings
from perception3d.engine.training import train
from tests.engine.convnext_files import hollow, small
from tests.engine.toy import ToyModel, toy_experiment


class ToyWithBackbone(ToyModel):
    """The toy, and a backbone that nothing passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.lidar = nn.Module()
        self.lidar.backbone = BEVConvNeXt(depths=(1, 1), widths=(8, 12), out_stages=(1,))


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "import_backbone.py"
    spec = importlib.util.spec_from_file_location("import_backbone_tool", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclass looks names up
    spec.loader.exec_module(module)
    return module


def test_a_run_starts_from_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(small("timm"), tmp_path / "convnext.pth")
    start = BackboneWeights(file=tmp_path / "convnext.pth")
    experiment = toy_experiment(
        model=ToyWithBackbone, backbone_weights=start, epochs=None, max_steps=1, ema_decay=None,
        optimizer=AdamWSettings(lr=1e-9, weight_decay=0.0), find_unused_parameters=True,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, logger="perception3d"):
        result = train(experiment, Launch(root=tmp_path, tensorboard=False))
    assert result.finished and "lidar.backbone from" in caplog.text
    state, _ = read_weights(result.folder.weights("last"))
    wanted = small("timm")["stages.1.blocks.0.gamma"]
    torch.testing.assert_close(state["lidar.backbone.stages.1.0.gamma"], wanted)


def test_a_backbone_beside_whole_weights_is_refused(tmp_path: Path) -> None:
    start = BackboneWeights(file=tmp_path / "convnext.pth")
    with pytest.raises(ValueError, match="hold a backbone already"):
        toy_experiment(weights=tmp_path / "w.safetensors", backbone_weights=start)


@pytest.mark.slow
def test_the_tool_says_what_it_did_and_writes_a_start(
    tool: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_town: Path
) -> None:
    source, out = tmp_path / "convnext_tiny.pth", tmp_path / "start.safetensors"
    torch.save({"model": hollow("the authors")}, source)
    config = str(Path(__file__).parents[2] / "configs" / "pillarnest_small.py")
    flags = ["--data", str(tiny_town), "--size", "published", "--seed", "3"]
    with caplog.at_level(logging.INFO, logger="perception3d"):
        assert tool.main([config, str(source), *flags, "--out", str(out)]) == 0
    assert "30 of 112 tensors, 0.92 of 2.69 M weights (34 %)" in caplog.text
    state, header = read_weights(out)
    assert header["model"] == "PillarNeSt" and header["backbone"] == "convnext_tiny.pth"
    # The same model that training draws from the seed, but for what the file holds.
    from perception3d.engine.config_file import load_config

    knobs = {"data": str(tiny_town), "size": "published", "seed": 3}
    torch.manual_seed(3)
    drawn = load_config(config).build(knobs).model().state_dict()
    assert drawn.keys() == state.keys()
    changed = [k for k, v in drawn.items() if not torch.equal(v, state[k])]
    assert len(changed) == 30
    assert tool.main(["--help"]) == 0 and tool.main([config]) == 2
