"""`RunState`: everything that a run needs to go on, as one file.

The file is ``torch.save``'s format holding tensors, numbers, strings, lists and dicts only, and it
is read with ``weights_only=True``: opening a state never runs code from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from perception3d.engine.files import write_atomically
from perception3d.engine.plan import Plan

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after ``step`` finished updates.

    Attributes:
        step: finished optimiser updates; with the plan it gives the position in the epoch.
        plan: the plan's numbers, to refuse going on with another one.
        seed, batch_size, world_size: the same.
        model, optimizer: state dicts.
        average: state of the weight average, or None.
        scaler: state of fp16's loss scaling, or empty.
    """

    step: int
    plan: dict[str, int]
    seed: int
    batch_size: int
    world_size: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    scaler: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write atomically; a full disk leaves the file before it untouched."""
        # asdict() would copy every tensor; the fields are only referenced here.
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))

    @classmethod
    def load(cls, path: Path) -> RunState:
        """Read a state onto the CPU.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, or of another format.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no checkpoint at {path}: the run was stopped before its first one; start it anew"
            )
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{path} is not a readable checkpoint of a run ({type(error).__name__}); to start"
                " from published or exported weights use the config's weights instead of --resume"
            ) from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(
                f"{path} is not a checkpoint of a run in format {FORMAT}; resume it with the"
                " version of perception3d that wrote it"
            )
        return cls(**content)

    def check_same_run(self, plan: Plan, *, seed: int, batch_size: int, world_size: int) -> None:
        """Refuse to continue under numbers that would change what comes next.

        Raises:
            ValueError: naming each difference.
        """
        before = {
            **self.plan,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "processes": self.world_size,
        }
        now = {
            **asdict(plan),
            "seed": seed,
            "batch_size": batch_size,
            "processes": world_size,
        }
        changed = [
            f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
        ]
        if changed:
            raise ValueError(
                f"the run cannot continue under other numbers ({', '.join(changed)}): a resumed run"
                " must end as an uninterrupted one would. Use the old numbers, or start a new run"
                " (--run NAME) from this one's weights"
            )
