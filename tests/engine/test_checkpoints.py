"""Weights on disk, and the table between published names and ours."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from perception3d.engine import checkpoints
from perception3d.engine.checkpoints import (
    load_published,
    load_weights,
    read_weights,
    save_weights,
)
from perception3d.engine.key_tables import CMT_KEYS, KeyTable
from perception3d.engine.published import import_published
from perception3d.models.cmt import CMT
from tests.models.small_cmt import small_batch, small_cmt


class OtherModel(nn.Linear):
    """A model that is not CMT."""


@pytest.fixture
def saved(tmp_path: Path) -> tuple[CMT, Path]:
    model, path = small_cmt(seed=1), tmp_path / "folder" / "weights.safetensors"
    save_weights(model, path, notes={"commit": "abc"})
    return model, path


def test_round_trip(saved: tuple[CMT, Path]) -> None:
    model, path = saved
    other = small_cmt(seed=2)
    header = load_weights(other, path)
    assert (header["model"], header["commit"]) == ("CMT", "abc")
    batch = small_batch()
    assert torch.equal(model.eval()(batch).box, other.eval()(batch).box)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_weights_of_another_model_are_refused(saved: tuple[CMT, Path]) -> None:
    with pytest.raises(ValueError, match=r"holds weights of 'CMT'; this model is 'OtherModel'"):
        load_weights(OtherModel(2, 2), saved[1])


def test_every_difference_is_listed(saved: tuple[CMT, Path]) -> None:
    with pytest.raises(ValueError, match=r"missing|unexpected") as error:
        load_weights(small_cmt(image=False), saved[1])
    assert "image.neck.output.weight" in str(error.value)
    assert "tokens.ray.embedding.0.bias" in str(error.value)
    with pytest.raises(ValueError, match=r"queries.reference \(12, 3\), the model has \(7, 3\)"):
        load_weights(small_cmt(queries=7), saved[1])
    lidar_only = saved[1].with_name("lidar.safetensors")
    save_weights(small_cmt(image=False), lidar_only)
    with pytest.raises(ValueError, match=r"missing: image\.backbone\.bn1\.bias"):
        load_weights(small_cmt(), lidar_only)


def test_a_refused_file_changes_nothing(saved: tuple[CMT, Path]) -> None:
    model = small_cmt(queries=7, seed=5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError):
        load_weights(model, saved[1])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_files_that_are_no_weights(tmp_path: Path, saved: tuple[CMT, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "nothing.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(saved[1].read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_weights(torn)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no header of this format"):
        load_weights(saved[0], tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("suffix", checkpoints.PICKLES)
def test_pickles_are_refused_with_the_converting_command(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"epoch20{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match="is a pickle") as error:
        read_weights(path)
    assert f"python -m perception3d.engine.published {path} {tmp_path}/epoch20.safetensors" in str(
        error.value
    )


@pytest.mark.parametrize("name", ["epoch20.safetensors", "epoch20", "my weights.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_under_other_names_are_refused_too(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / name
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="is a pickle") as error:
        read_weights(path)
    command = str(error.value).splitlines()[1].strip()
    *start, source, target = shlex.split(command)
    assert start == ["python", "-m", "perception3d.engine.published"]
    assert Path(source) == path and Path(target) != path and Path(target).suffix == ".safetensors"


def test_a_safetensors_file_is_one_by_its_content(tmp_path: Path) -> None:
    # The first byte, the length of the header, is that of a pickle; then by any name.
    model = nn.Linear(2, 2)
    path = tmp_path / "weights.safetensors"
    for pad in range(0, 600, 8):
        save_weights(model, path, notes={"pad": "x" * pad})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    path.rename(path.with_suffix(".bin"))
    state, _ = read_weights(path.with_suffix(".bin"))
    assert torch.equal(state["weight"], model.weight)


def test_a_failed_write_leaves_the_old_file(
    saved: tuple[CMT, Path], disk_with_room_for: Callable[[int], AbstractContextManager[None]]
) -> None:
    _, path = saved
    before = path.read_bytes()
    with (
        disk_with_room_for(1000),
        pytest.raises(OSError, match=rf"no room to write {path} .*the previous one is intact"),
    ):
        save_weights(small_cmt(seed=9), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_new_weights_are_as_readable_as_other_files(saved: tuple[CMT, Path]) -> None:
    other = saved[1].with_name("other")
    other.touch()
    assert saved[1].stat().st_mode == other.stat().st_mode


def published(model: CMT) -> dict[str, Any]:
    state = {CMT_KEYS.to_published(k): v for k, v in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    return state


def test_names_go_both_ways_for_every_weight() -> None:
    for name in small_cmt().state_dict():
        assert CMT_KEYS.to_ours(CMT_KEYS.to_published(name)) == name
    assert CMT_KEYS.to_ours("module.img_neck.fpn_convs.0.conv.bias") == "image.neck.output.bias"
    assert CMT_KEYS.to_ours("pts_backbone.bias") is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("queries.reference", "pts_bbox_head.reference_points.weight"),
        ("tokens.shared_conv.1.running_var", "pts_bbox_head.shared_conv.bn.running_var"),
        (
            "head.decoder.layers.1.cross_attention.out_proj.bias",
            "pts_bbox_head.transformer.decoder.layers.1.attentions.1.attn.out_proj.bias",
        ),
        (
            "head.tasks.branches.cls_logits.output_weight",
            "pts_bbox_head.task_heads.0.cls_logits.3.weight",
        ),
        ("lidar.backbone.norms.2.weight", "pts_backbone.norm2.weight"),
        ("image.backbone.layer1.0.bn2.bias", "img_backbone.layer1.0.bn2.bias"),
    ],
)
def test_published_names(ours: str, theirs: str) -> None:
    assert CMT_KEYS.to_published(ours) == theirs
    assert CMT_KEYS.to_ours(theirs) == ours


def test_unknown_published_names_are_listed() -> None:
    table = KeyTable(rules=(("a.{i}", "b.{i}"),))
    with pytest.raises(ValueError, match=r"2 published names .* a\.x, c"):
        table.translate({"a.1": 0, "c": 1, "a.x": 2})
    with pytest.raises(ValueError, match=r"outside 'image.neck.': queries.reference"):
        load_published(
            nn.Linear(1, 1),
            {"pts_bbox_head.reference_points.weight": torch.zeros(1, 3)},
            prefix="image.neck.",
        )


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_published_pickle_is_converted(tmp_path: Path, wrapped: bool) -> None:
    model = small_cmt(seed=3)
    state = published(model) | {"pts_backbone.bias": torch.zeros(3)}
    source, target = tmp_path / "published.pth", tmp_path / "ours.safetensors"
    torch.save({"meta": {"epoch": 20}, "state_dict": state} if wrapped else state, source)
    assert len(import_published(source, target).state) == len(model.state_dict())
    other = small_cmt(seed=4)
    assert load_weights(other, target)["source"] == "published.pth"
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_a_pickle_with_code_is_not_opened(tmp_path: Path) -> None:
    source = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "meta": Path("x")}, source)
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        import_published(source, tmp_path / "out.safetensors")


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perception3d.engine.published", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_converting_command_works(tmp_path: Path) -> None:
    torch.save(published(small_cmt()), tmp_path / "p.pth")
    done = run_command(tmp_path, "p.pth", "o.safetensors")
    assert done.returncode == 0, done.stderr
    assert "tensors written to o.safetensors" in done.stdout
    load_weights(small_cmt(seed=7), tmp_path / "o.safetensors")


@pytest.mark.slow
def test_the_converting_command_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"hello world, this is junk")
    done = run_command(tmp_path, "junk.pth", "o.safetensors")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: junk.pth is not a readable PyTorch checkpoint")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world, this is junk", "not a readable PyTorch checkpoint"),
        (b"", "not a readable PyTorch checkpoint"),
        (b"PK\x03\x04" + b"x" * 50, "not a readable PyTorch checkpoint"),
        ([1, 2], "holds no state dict: found list"),
        ({"state_dict": [1]}, "holds no state dict"),
        ({"epoch": 3}, "holds no tensors; found the keys epoch"),
        ({"state_dict": {"unknown.weight": torch.zeros(1)}}, "not in the key table: unknown.wei"),
        ({"a": Path("x")}, r"more than tensors and plain values \(pathlib\.\w+\)"),
        (None, "no checkpoint at"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_converted(tmp_path: Path, content: Any, message: str) -> None:
    source, target = tmp_path / "source.pth", tmp_path / "target.safetensors"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        torch.save(content, source)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        import_published(source, target, "cmt")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert not target.exists()
