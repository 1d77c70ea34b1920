"""Start some parts of a model from a run of another one, which shares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from perception3d.engine.backbone_names import state_of_file
from perception3d.engine.backbone_weights import BackboneWeights


@dataclass(frozen=True, kw_only=True)
class PartWeights:
    """Weights of several parts from one file; every part must be there whole.

    Attributes:
        file: safetensors or a PyTorch checkpoint.
        parts: names of modules, the same in the file and in the model.

    Raises:
        ValueError: there are no parts.
    """

    file: Path
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError(f"no part of the model is to start from {self.file}")

    def fill(self, model: nn.Module) -> None:
        """Fill the parts of a model in place, and log what was done.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a part is missing in the file, or differs; every difference is listed. Parts
                before it are filled then.
        """
        state = state_of_file(self.file)
        for part in self.parts:
            own = {name: value for name, value in state.items() if name.startswith(f"{part}.")}
            if not own:
                raise ValueError(f"{self.file} has no part {part!r} for the model to start from")
            BackboneWeights(file=self.file, part=part).fill_from(own, model)
