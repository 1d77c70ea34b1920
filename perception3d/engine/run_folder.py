"""`RunFolder`: where a run keeps what it is and what it makes. One run, one folder."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from perception3d.engine.files import write_json
from perception3d.engine.lock import locked


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run was started from.

    Attributes:
        config: path of the config file. source: its text.
        knobs: the arguments that ``experiment`` was called with.
        arguments: the command-line flags that gave the knobs.
    """

    config: str = ""
    source: str = ""
    knobs: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run.

    ``config.py`` and ``run.json`` say what it is, ``metrics.jsonl`` and ``tensorboard/`` how it
    went, ``checkpoints/latest.ckpt`` is for ``--resume``, ``weights/*.safetensors`` for everything
    else, ``evaluation/`` holds the scores by epoch.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The rolling checkpoint."""
        return self.path / "checkpoints" / "latest.ckpt"

    @property
    def metrics(self) -> Path:
        """Numbers over time."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def scores(self) -> Path:
        """Scores of every evaluation, a JSON list."""
        return self.path / "evaluation" / "scores.json"

    def weights(self, name: str) -> Path:
        """Weights called ``name`` (epoch_03, best, last)."""
        return self.path / "weights" / f"{name}.safetensors"

    def evaluation(self, epoch: int) -> Path:
        """Folder for the evaluation after ``epoch`` finished epochs."""
        return self.path / "evaluation" / f"epoch_{epoch:02d}"

    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds.

        Raises:
            FileNotFoundError: this is not a run folder.
            ValueError: its record cannot be read.
        """
        file = self.path / "run.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.path} is not the folder of a run (no run.json); {_known(self.path.parent)}"
            )
        try:
            return dict(json.loads(file.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{file} cannot be read ({error}); restore it or start a new run"
            ) from error

    def read_scores(self) -> list[dict[str, Any]]:
        """The scores so far, oldest first."""
        return list(json.loads(self.scores.read_text())) if self.scores.is_file() else []

    def keep_newest_results(self, epoch: int) -> None:
        """Delete the predictions of other evaluations (0.5 GB each on nuScenes val)."""
        for file in self.path.glob("evaluation/epoch_*/results.json"):
            if file.parent != self.evaluation(epoch):
                file.unlink(missing_ok=True)

    def best_weights(self) -> Path:
        """The best weights by score; without scores the newest.

        Raises:
            FileNotFoundError: there are none yet.
        """
        epochs = sorted(self.path.glob("weights/epoch_*.safetensors"))
        for path in (self.weights("best"), self.weights("last"), *reversed(epochs)):
            if path.is_file():
                return path
        raise FileNotFoundError(f"{self.path} has no weights yet: its first epoch is not over")

    def remove(self) -> None:
        """Delete the folder with everything in it, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; another run in it is refused (InUseError)."""
        with locked(self.path / "lock"):
            yield


def create_run(path: Path, origin: Origin, *, name: str, data: dict[str, str]) -> RunFolder:
    """Make the folder of a new run, complete or not at all.

    Args:
        path: the folder, which must not exist (or be empty).
        origin: config source, knobs and flags.
        name: the experiment's name.
        data: fingerprints of the data by split.

    Raises:
        FileExistsError: something is there already, with what to do.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path} already holds {_contents(path)}. Continue it with --resume, choose another"
            f" folder with --run NAME, or delete it (rm -r {path})"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        draft.chmod(0o755)
        (draft / "config.py").write_text(origin.source)
        write_json(
            draft / "run.json",
            {
                "format": 1,
                "name": name,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "config": origin.config,
                "knobs": origin.knobs,
                "arguments": list(origin.arguments),
                "data": data,
                "git": git_state(),
                "versions": versions(),
                "host": platform.node(),
            },
        )
        draft.rename(path)  # replaces an empty folder, fails on any other
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError) and path.exists() and any(path.iterdir()):
            raise FileExistsError(
                f"{path} was just taken by another run; choose --run NAME"
            ) from error
        raise
    return RunFolder(path)


def find_run(root: Path, which: str) -> RunFolder:
    """The run called ``which`` under ``root``, or the folder of that path.

    Raises:
        FileNotFoundError: naming the runs there are.
    """
    for path in (root / which, Path(which)):
        if (path / "run.json").is_file():
            return RunFolder(path)
    raise FileNotFoundError(f"no run called {which!r} under {root}; {_known(root)}")


def find_weights(root: Path, which: str) -> Path:
    """A weights file from what a user says: its path, or a run's name or folder (its best ones).

    Raises:
        FileNotFoundError: neither; names the runs there are.
        ValueError: a run's checkpoint, which is not a weights file.
    """
    path = Path(which)
    if path.name == RunFolder(path).checkpoint.name and len(path.parts) > 2:
        weights = RunFolder(path.parent.parent).best_weights()
        raise ValueError(f"{path} is for --resume only; the run's weights are in {weights}")
    if path.is_file() or path.suffix:
        return path  # whoever loads it says what is wrong with it
    return find_run(root, which).best_weights()


def check_data(folder: RunFolder, data: dict[str, str]) -> None:
    """Refuse to continue on other data.

    Raises:
        ValueError: naming the splits whose fingerprint differs.
    """
    before = folder.record().get("data", {})
    changed = [split for split in data if before.get(split, data[split]) != data[split]]
    if changed:
        raise ValueError(
            f"the {' and '.join(changed)} data changed since {folder.path} was started; put the old"
            " data back, or start a new run (--run NAME)"
        )


def git_state() -> dict[str, Any]:
    """Commit of the source tree this package runs from, and whether tracked files differ."""
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain", "-uno"))}


def versions() -> dict[str, str]:
    """Python and the packages that can move a number."""
    names = ("perception3d", "torch", "lightning", "numpy", "numba", "opencv-python-headless")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(folder), *arguments), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _contents(path: Path) -> str:
    return "a run" if (path / "run.json").is_file() else "other files"


def _known(root: Path) -> str:
    runs = sorted(file.parent.name for file in root.glob("*/run.json")) if root.is_dir() else []
    return f"runs there: {', '.join(runs)}" if runs else f"{root} holds no runs"
