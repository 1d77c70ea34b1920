"""Any image model of timm as a backbone: ConvNeXt, Swin, EfficientNet, and some hundred others."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from perception3d.nn.norm import freeze_statistics


class TimmBackbone(nn.Module):
    """Maps of the asked strides of a timm model (huggingface/pytorch-image-models), (N, C, h, w).

    The model is built up to the last stage that is asked for. Where several of its maps have a
    stride, the deepest is taken: the last block of a vision transformer, say. Models that hand out
    channels last (Swin) are turned.

    timm is imported here, when a backbone is built, and nowhere else.

    Args:
        name: in timm, with or without the tag of its weights: "convnext_tiny.fb_in22k".
        strides: of the maps, ascending.
        pretrained: fetch timm's weights.
        image_hw: (H, W) of the network's input, padding included. Needed by models that are built
            for one size (Swin, vision transformers); others do not look at it.
        norm_eval: batch norms use and keep their running statistics in training too, as is usual
            for pre-trained backbones.
        checkpointing: recompute in the backward pass to save memory, in timm's own steps. Batch
            norms that learn (``norm_eval`` False) then count every batch twice.

    Attributes:
        channels, strides: of each output.
        mean, std: of the pixels that the weights were trained on, red, green, blue, for pixels of
            0 to 255 (timm's ``pretrained_cfg``).

    Raises:
        ImportError: timm, or torchvision, which it needs, is not installed.
        ValueError: timm does not know the name, the model has no maps, or none of a stride, or is
            built for one size and ``image_hw`` is missing, or it cannot recompute.
    """

    def __init__(
        self,
        *,
        name: str,
        strides: Sequence[int] = (16, 32),
        pretrained: bool = False,
        image_hw: tuple[int, int] | None = None,
        norm_eval: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not strides or list(strides) != sorted(set(strides)):
            raise ValueError(f"strides must ascend, at least one; found {tuple(strides)}")
        timm = _timm()
        _check_name(timm, name)
        # Which of a model's maps has which stride is known once it is built.
        probe = _probe(timm, name)
        options: dict[str, Any] = {}
        if probe.pretrained_cfg.get("fixed_input_size", False):
            if image_hw is None:
                size = tuple(probe.pretrained_cfg["input_size"][1:])
                raise ValueError(
                    f"{name} is built for images of one size, by default {size}; "
                    "image_hw=(height, width) must say which"
                )
            options["img_size"] = tuple(image_hw)
        self.model = timm.create_model(
            name,
            features_only=True,
            pretrained=pretrained,
            out_indices=_indices(name, probe, strides),
            **options,
        )
        self.channels = tuple(int(c) for c in self.model.feature_info.channels())
        self.strides = tuple(strides)
        self.mean = tuple(255.0 * float(x) for x in self.model.pretrained_cfg["mean"])
        self.std = tuple(255.0 * float(x) for x in self.model.pretrained_cfg["std"])
        self.norm_eval = norm_eval
        # An enumeration of strings in timm; models without one give channels first.
        layout = getattr(self.model, "output_fmt", None) or "NCHW"
        self.channels_last = _layout(name, str(getattr(layout, "value", layout)))
        if checkpointing:
            _recompute(name, self.model)

    def train(self, mode: bool = True) -> TimmBackbone:
        """As ever, but with ``norm_eval`` the batch norms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            freeze_statistics(self)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) normalised -> maps (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        maps = tuple(x.permute(0, 3, 1, 2) if self.channels_last else x for x in self.model(images))
        found = tuple(x.shape[1] for x in maps)
        assert found == self.channels, f"timm declares {self.channels} channels; found {found}"
        return maps


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            'image backbones of timm need it and torchvision: pip install "perception3d[timm]" '
            f"torchvision (found: {error})"
        ) from error
    return timm


def _check_name(timm: ModuleType, name: str) -> None:
    if ":" in name or timm.is_model(name):  # a source before the colon, such as "hf-hub:"
        return
    plain = name.partition(".")[0]
    near = difflib.get_close_matches(plain, timm.list_models(), n=5, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "timm.list_models() lists all"
    raise ValueError(f"timm has no model {name!r}; {hint}")


def _probe(timm: ModuleType, name: str) -> Any:
    try:
        return timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError) as error:
        # An unknown tag of weights, or a model without maps.
        raise ValueError(f"timm cannot build {name!r} for its maps: {error}") from error


def _indices(name: str, probe: Any, strides: Sequence[int]) -> tuple[int, ...]:
    deepest = {int(entry["reduction"]): i for i, entry in enumerate(probe.feature_info.info)}
    missing = [stride for stride in strides if stride not in deepest]
    if missing:
        raise ValueError(
            f"{name} has no map of stride {', '.join(map(str, missing))}; its strides are "
            f"{', '.join(map(str, sorted(deepest)))}"
        )
    return tuple(deepest[stride] for stride in strides)


def _layout(name: str, layout: str) -> bool:
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f"{name} gives its maps as {layout}; NCHW or NHWC is needed")
    return layout == "NHWC"


def _recompute(name: str, model: nn.Module) -> None:
    # Wrappers that call the model's own method for maps leave the switch to the model inside.
    switch = getattr(model, "set_grad_checkpointing", None) or getattr(
        getattr(model, "model", None), "set_grad_checkpointing", None
    )
    try:
        if switch is None:
            raise AssertionError("it has no such switch")
        switch(True)
    except AssertionError as error:  # so timm says that a model cannot
        raise ValueError(
            f"{name} cannot recompute in the backward pass ({error}); leave checkpointing off"
        ) from error
