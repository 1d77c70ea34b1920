"""What a run writes: atomic files, states, logs, folders, locks."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from perception3d.engine.files import write_atomically, write_json
from perception3d.engine.lock import InUseError, locked
from perception3d.engine.metrics_log import MetricsLog
from perception3d.engine.plan import Plan
from perception3d.engine.progress import Progress, clock
from perception3d.engine.run_folder import (
    Origin,
    RunFolder,
    create_run,
    find_run,
    find_weights,
    git_state,
    versions,
)
from perception3d.engine.run_state import RunState

Disk = Callable[[int], AbstractContextManager[None]]
PLAN = Plan(batches=12, accumulate=2, total_steps=24)


def state(step: int = 3, size: int = 10) -> RunState:
    return RunState(
        step=step,
        plan=asdict(PLAN),
        seed=0,
        batch_size=2,
        world_size=1,
        model={"w": torch.arange(size, dtype=torch.float32)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        average=None,
        scaler={},
    )


def test_state_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "latest.ckpt"
    state().save(path)
    loaded = RunState.load(path)
    assert loaded.step == 3 and torch.equal(loaded.model["w"], state().model["w"])
    assert loaded.optimizer["param_groups"] == [{"lr": 0.1}]
    assert [p.name for p in path.parent.iterdir()] == ["latest.ckpt"]


def test_full_disk_keeps_the_checkpoint_before(tmp_path: Path, disk_with_room_for: Disk) -> None:
    path = tmp_path / "latest.ckpt"
    state(step=1).save(path)
    with (
        disk_with_room_for(50_000),
        pytest.raises(OSError, match=r"no room to write.*the previous one is intact.*--resume"),
    ):
        state(step=2, size=100_000).save(path)
    assert RunState.load(path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["latest.ckpt"]


def test_full_disk_without_a_checkpoint_before(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="nothing was left behind") as caught:
        write_atomically(tmp_path / "x", write)
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_a_place_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)

    def refuse(self: Path, *_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:  # the tests may run as root, who may do anything
        patch.setattr(Path, "open", refuse)
        with pytest.raises(PermissionError, match=rf"may not write {path} .*Make .* writable"):
            write_json(path, 2)
    assert json.loads(path.read_text()) == 1 and list(tmp_path.iterdir()) == [path]


def test_any_failure_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1, "p": Path("x")})
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    assert json.loads(path.read_text()) == {"a": 1, "p": "x"}
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/evil-was-here",))


def test_states_never_run_code(tmp_path: Path) -> None:
    path = tmp_path / "latest.ckpt"
    torch.save({"format": 1, "step": Evil()}, path)
    with pytest.raises(ValueError, match="not a readable checkpoint of a run"):
        RunState.load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a readable checkpoint of a run"):
        RunState.load(path)
    assert not Path("/tmp/evil-was-here").exists()


def test_damaged_and_foreign_states(tmp_path: Path) -> None:
    path = tmp_path / "latest.ckpt"
    with pytest.raises(FileNotFoundError, match="start it anew"):
        RunState.load(path)
    state().save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        RunState.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="not a checkpoint of a run in format 1"):
        RunState.load(path)


def test_a_state_knows_its_run() -> None:
    state().check_same_run(PLAN, seed=0, batch_size=2, world_size=1)
    with pytest.raises(ValueError, match=r"total_steps: 24 -> 30, processes: 1 -> 2"):
        state().check_same_run(
            Plan(batches=12, accumulate=2, total_steps=30), seed=0, batch_size=2, world_size=2
        )


def test_log_drops_what_will_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2, "task": {"boxes": 1.0}})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # a torn line
    log = MetricsLog(path, after_step=2)
    log.write(3, {"loss": 9.0})
    log.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.5, 1.0, 9.0]


def test_a_full_disk_tears_no_line_of_the_log(tmp_path: Path, disk_with_room_for: Disk) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(1, {"loss": 0.5})
    whole = path.read_bytes()
    # Room for the first half of the line: the system writes it and reports no error.
    with (
        disk_with_room_for(len(whole) + 10),
        pytest.raises(OSError, match=rf"no room to write {path} .*the lines before are intact"),
    ):
        log.write(2, {"loss": 0.25})
    assert path.read_bytes() == whole
    log.write(2, {"loss": 0.25})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_log_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"may not write .*metrics\.jsonl .*Read-only"):
        MetricsLog(tmp_path / "metrics.jsonl")


def test_a_run_goes_on_without_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class FullBoard:
        def add_scalar(self, *_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._board = FullBoard()
    for step in (1, 2):
        log.write(step, {"loss": 0.5})
    log.close()
    assert capsys.readouterr().out.count("TensorBoard's files end here") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_gets_flat_names(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = MetricsLog(tmp_path / "m.jsonl", tensorboard=tmp_path / "board")
    log.write(1, {"loss": 0.5, "task": {"boxes": 1.0}})
    log.close()
    events = b"".join(p.read_bytes() for p in (tmp_path / "board").iterdir())
    assert b"task/boxes" in events


def test_a_run_folder_says_what_it_is(tmp_path: Path) -> None:
    origin = Origin(
        config="configs/x.py", source="# text\n", knobs={"out": Path("p")}, arguments=("--a",)
    )
    folder = create_run(tmp_path / "x", origin, name="x", data={"train": "abc"})
    assert (folder.path / "config.py").read_text() == "# text\n"
    record = folder.record()
    assert record["knobs"] == {"out": "p"} and record["data"] == {"train": "abc"}
    assert record["versions"]["torch"] and set(record["git"]) == {"commit", "dirty"}
    assert list(tmp_path.iterdir()) == [folder.path]
    with pytest.raises(FileExistsError, match=r"already holds a run\. Continue it with --resume"):
        create_run(tmp_path / "x", origin, name="x", data={})
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        create_run(tmp_path / "y", origin, name="y", data={})


def test_runs_and_weights_are_found(tmp_path: Path) -> None:
    folder = create_run(tmp_path / "x", Origin(), name="x", data={})
    assert find_run(tmp_path, "x") == find_run(Path("elsewhere"), str(folder.path)) == folder
    with pytest.raises(FileNotFoundError, match="runs there: x"):
        find_run(tmp_path, "z")
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        find_run(tmp_path / "none", "z")
    with pytest.raises(FileNotFoundError, match="first epoch is not over"):
        find_weights(tmp_path, "x")
    for name in ("epoch_01", "epoch_02", "best"):
        folder.weights(name).parent.mkdir(exist_ok=True)
        folder.weights(name).touch()
        assert find_weights(tmp_path, "x") == folder.weights(name)
    assert find_weights(tmp_path, "a/b.safetensors") == Path("a/b.safetensors")
    with pytest.raises(ValueError, match=r"for --resume only.*best\.safetensors"):
        find_weights(tmp_path, str(folder.checkpoint))


def test_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        RunFolder(tmp_path).record()
    with pytest.raises(FileNotFoundError, match=r"not the folder of a run"):
        RunFolder(tmp_path / "x").record()


def test_only_the_newest_predictions_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        folder.evaluation(epoch).mkdir(parents=True)
        (folder.evaluation(epoch) / "results.json").touch()
        (folder.evaluation(epoch) / "metrics.json").touch()
    folder.keep_newest_results(2)
    assert not (folder.evaluation(1) / "results.json").exists()
    assert (folder.evaluation(1) / "metrics.json").exists()
    assert (folder.evaluation(2) / "results.json").exists()


def test_versions_and_git() -> None:
    assert versions()["python"].startswith("3.")
    assert set(git_state()) == {"commit", "dirty"}


def test_a_lock_is_held_by_one_living_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys\nfrom pathlib import Path\nfrom perception3d.engine.lock import locked\n"
        f"with locked(Path({str(path)!r})):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InUseError, match=rf"in use by process {holder.pid}.*--run NAME"),
        locked(path),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert path.exists()
    with locked(path):  # stale: taken over
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_locks_of_other_machines_and_torn_locks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "1"}))
    with pytest.raises(InUseError, match=r"process 1 on elsewhere.*delete"), locked(path):
        pass
    path.write_text('{"pid"')
    with locked(path):
        pass


def test_a_number_that_was_given_to_another_process(tmp_path: Path) -> None:
    import platform

    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": os.getppid(), "host": platform.node(), "started": "1"}))
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_progress_lines() -> None:
    stream = StringIO()
    progress = Progress(10, "step", done=4, stream=stream)
    assert not progress.due and not progress.begun
    progress.advance(3)
    progress.show("loss 1")
    progress.say("hello")
    assert "step 7/10  loss 1" in stream.getvalue() and "ETA 0:00:0" in stream.getvalue()
    assert stream.getvalue().endswith("hello\n")
    assert clock(3725.4) == "1:02:05"
    quiet = Progress(1, "x", quiet=True, stream=stream)
    quiet.show()
    assert not quiet.due
