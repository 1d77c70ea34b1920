"""Config files, flags, and the tools around them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyModel, toy_experiment, train_samples, val_samples

from perception3d.engine.command_line import (
    check_knobs,
    clear_errors,
    model_with_weights,
    parse_command,
    split_resume,
)
from perception3d.engine.config_file import load_config
from perception3d.engine.evaluating import evaluate
from perception3d.engine.loading import eval_loader
from perception3d.engine.prediction import evaluation_mode, pick_device, predict

REPOSITORY = Path(__file__).parents[2]
CONFIG = str(Path(__file__).with_name("toy_config.py"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Own flags.

    Attributes:
        resume: which run.
    """

    resume: str | None = None


def parse(*flags: str, **more: Any) -> Any:
    return parse_command(CONFIG, flags, Options, prog="tool", **more)


def tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"tool_{name}", REPOSITORY / "tools" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_flags_become_typed_knobs() -> None:
    command = parse("--epochs", "2", "--grid", "4", "5", "--no-augment", "--ema", "None")
    assert command.knobs["epochs"] == 2 and command.knobs["grid"] == (4, 5)
    assert command.knobs["augment"] is False and command.knobs["ema"] is None
    assert command.experiment().epochs == 2
    assert command.origin().source.startswith('"""A config for tests')


def test_unknown_flags_list_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown flag --epoch; did you mean --epochs\? Known: --augment --"
    ):
        parse("--epoch", "3")
    with pytest.raises(ValueError, match=r"unknown flag --zzz\. Known: .*--workers"):
        parse("--zzz", "3")


def test_help_explains_every_knob(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    text = capsys.readouterr().out
    assert end.value.code == 0
    for words in ("A toy that trains in a second", "passes over the data", "which run", "--grid"):
        assert words in text


def test_a_resumed_run_keeps_its_knobs() -> None:
    first = parse("--epochs", "7", "--grid", "4", "5", "--no-augment", "--ema", "None")
    stored = json.loads(json.dumps(first.knobs))
    again = parse("--workers", "1", earlier_knobs={**stored, "gone": 3})
    assert {**again.knobs, "workers": 0} == first.knobs
    check_knobs({"knobs": stored}, again.knobs, Path("x"))
    changed = parse("--epochs", "8", earlier_knobs=stored)
    with pytest.raises(ValueError, match=r"other knobs \(epochs: 7 -> 8\): leave those flags out"):
        check_knobs({"knobs": stored}, changed.knobs, Path("x"))


def test_resume_may_stand_alone() -> None:
    assert split_resume(["--resume"]) == ["--resume", "auto"]
    assert split_resume(["--resume", "--root", "x"]) == ["--resume", "auto", "--root", "x"]
    assert split_resume(["--resume", "run1"]) == ["--resume", "run1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"no function experiment"),
        ("def experiment(a): ...\n", r"parameter a needs a name, a type and a default"),
        ("def experiment(**knobs): ...\n", r"parameter \*\*knobs needs"),
    ],
)
def test_malformed_configs(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "c.py")


def test_a_config_that_builds_something_else(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("def experiment(*, a: int = 1): return a\n")
    with pytest.raises(ValueError, match="returned int, expected Experiment"):
        load_config(tmp_path / "c.py").build({})


def test_missing_configs_name_their_neighbours() -> None:
    with pytest.raises(FileNotFoundError, match=r"did you mean .*toy_config\.py\?"):
        load_config(CONFIG.replace("toy_config", "toy_confg"))


def test_knobs_may_not_hide_options(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("def experiment(*, resume: int = 1): ...\n")
    with pytest.raises(ValueError, match=r"rename the knobs \['resume'\]"):
        parse_command(str(tmp_path / "c.py"), [], Options, prog="tool")


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    with pytest.raises(SystemExit), clear_errors():
        raise ValueError("do this")
    assert capsys.readouterr().err.startswith("error: do this\n")
    with pytest.raises(SystemExit), clear_errors():
        raise ImportError("that needs timm: pip install timm")
    assert capsys.readouterr().err.startswith("error: that needs timm: pip install timm\n")
    with pytest.raises(ImportError, match="no engine"), clear_errors():
        raise ImportError("no engine")
    monkeypatch.setenv("PERCEPTION3D_DEBUG", "1")
    with pytest.raises(ValueError, match="do this"), clear_errors():
        raise ValueError("do this")


def test_tools_say_how_to_call_them(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test", "submit"):
        assert tool(name).main(["--help"]) == 0
        assert tool(name).main([]) == 2
        assert f"python tools/{name}.py configs/" in capsys.readouterr().out


def test_train_test_submit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = ("--root", str(tmp_path))
    assert tool("train").main([CONFIG, "--epochs", "1", *root]) == 0
    assert tool("train").main([CONFIG, *root, "--resume"]) == 0
    assert tool("test").main([CONFIG, "toy", *root]) == 0
    scores = json.loads((tmp_path / "test" / "toy" / "scores.json").read_text())
    assert scores["NDS"] == 0.07 and scores["weights"].endswith("toy/weights/best.safetensors")
    # The toy predicts no boxes, which the validator rejects; the file is there all the same.
    assert tool("submit").main([CONFIG, "untrained", *root]) == 1
    results = json.loads((tmp_path / "submit" / "toy.json").read_text())["results"]
    assert set(results) == set(val_samples().tokens or ())
    assert "all-empty" in capfd.readouterr().out
    with pytest.raises(ValueError, match="other knobs"):
        tool("train").main([CONFIG, *root, "--resume", "--epochs", "3"])


def test_weights_of_another_model(tmp_path: Path) -> None:
    from perception3d.engine.checkpoints import save_weights

    save_weights(ToyModel(), tmp_path / "w.safetensors")
    wider = toy_experiment(model=lambda: ToyModel(width=20))
    with pytest.raises(ValueError, match=r"body\.0\.weight"):
        model_with_weights(wider, str(tmp_path / "w.safetensors"), tmp_path)
    model, source = model_with_weights(toy_experiment(), "untrained", tmp_path)
    assert isinstance(model, ToyModel) and source == "untrained"


def test_prediction_keeps_order_and_modes() -> None:
    model = ToyModel().train()
    model.body[1].eval()  # a frozen norm stays frozen afterwards
    loader = eval_loader(val_samples(), batch_size=3, workers=0)
    tokens = [prediction.token for prediction in predict(model, loader)]
    assert tokens == list(val_samples().tokens or ())
    assert model.training and not model.body[1].training and model.body[3].training
    with evaluation_mode(model):
        assert not model.body[3].training


def test_evaluation_without_evaluators(tmp_path: Path) -> None:
    experiment = toy_experiment(evaluators=())
    assert evaluate(experiment, ToyModel(), train_samples(), tmp_path) is None


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert pick_device() == torch.device("cpu")
        with pytest.raises(ValueError, match="sees no CUDA device"):
            pick_device("cuda")


@pytest.mark.slow
def test_only_training_knows_lightning() -> None:
    code = (
        "import sys; import perception3d.engine, perception3d.engine.run,"
        " perception3d.engine.command_line, perception3d.engine.evaluating;"
        " bad = {'lightning', 'tyro', 'nuscenes', 'tensorboard', 'matplotlib', 'open3d'};"
        " print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout.strip() == "[]", done.stderr
    users = [
        path.name
        for path in (REPOSITORY / "perception3d").rglob("*.py")
        if re.search(r"^\s*(import|from) lightning", path.read_text(), re.MULTILINE)
    ]
    assert users == ["training.py"]
