"""Start some parts of a model from a run of another one, which shares them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from perception3d.engine.backbone_names import state_of_file
from perception3d.engine.backbone_weights import BackboneWeights, Filled


@dataclass(frozen=True, kw_only=True)
class PartWeights(BackboneWeights):
    """Weights of several parts from one file; every part must be there whole.

    Attributes:
        parts: names of modules, the same in the file and in the model.
    """

    parts: tuple[str, ...]

    def fill(self, model: nn.Module) -> Filled:
        """Fill the parts of a model in place, and log what was done.

        Returns:
            What became of the last part.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: there are no parts, or one differs; every difference is listed. Parts before
                it are filled then.
        """
        if not self.parts:
            raise ValueError(f"no part of the model is to start from {self.file}")
        state = state_of_file(self.file)
        for part in self.parts:
            if not any(name.startswith(f"{part}.") for name in state):
                raise ValueError(f"{self.file} has no part {part!r} for the model to start from")
        filled = [BackboneWeights(file=self.file, part=part).fill(model) for part in self.parts]
        return filled[-1]
