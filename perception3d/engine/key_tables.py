"""Names of weights in published checkpoints and here, one to one in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")

#: Placeholders of a rule: {i}, {j}, {l} are numbers; {rest} is anything; every other name is one
#: word.
_NUMBERS = ("i", "j", "l")


@dataclass(frozen=True)
class RowFold:
    """Rows of weights (output channels) that change place and sign on the way in.

    Attributes:
        name: rule for our names.
        order: our row i is the published row ``order[i]``, times ``sign[i]``.
    """

    name: str
    order: tuple[int, ...]
    sign: tuple[int, ...]

    def __call__(self, value: Any) -> Any:
        """The tensor in our order; one with another number of rows stays, for loading to refuse."""
        if value.shape[:1] != (len(self.order),):
            return value
        rows = value[list(self.order)]
        return rows * rows.new_tensor(self.sign).view(-1, *[1] * (rows.ndim - 1))

    def inverse(self) -> RowFold:
        """From our order to the published one."""
        back = tuple(self.order.index(row) for row in range(len(self.order)))
        return RowFold(self.name, back, tuple(self.sign[row] for row in back))


@dataclass(frozen=True)
class KeyTable:
    """Rules (published, ours) with placeholders such as ``{i}``; the first that fits counts.

    Attributes:
        rules: both sides of a rule hold the same placeholders, which makes it readable in either
            direction.
        ignored: published names that stand for nothing (rules without a counterpart).
        folds: weights whose rows mean something else there; ``translate`` puts them in our order.
    """

    rules: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...] = ()
    folds: tuple[RowFold, ...] = ()

    @cached_property
    def _compiled(
        self,
    ) -> tuple[list[tuple[re.Pattern[str], str]], list[tuple[re.Pattern[str], str]]]:
        forward = [(_pattern(published), ours) for published, ours in self.rules]
        backward = [(_pattern(ours), published) for published, ours in self.rules]
        return forward, backward

    def to_ours(self, published: str) -> str | None:
        """Our name of a published one; None if it is to be ignored.

        Raises:
            KeyError: the table doesn't know the name.
        """
        published = published.removeprefix("module.")
        if any(_pattern(rule).fullmatch(published) for rule in self.ignored):
            return None
        return _translate(published, self._compiled[0])

    def to_published(self, ours: str) -> str:
        """Published name of one of ours. Raises KeyError like :meth:`to_ours`."""
        return _translate(ours, self._compiled[1])

    def translate(self, state: Mapping[str, T]) -> dict[str, T]:
        """A published state dict under our names.

        Raises:
            ValueError: names that the table doesn't know; all of them are listed.
        """
        ours: dict[str, T] = {}
        unknown = []
        for name, value in state.items():
            try:
                translated = self.to_ours(name)
            except KeyError:
                unknown.append(name)
                continue
            if translated is not None:
                ours[translated] = self._folded(translated, value)
        if unknown:
            raise ValueError(
                f"{len(unknown)} published names are not in the key table: {listed(unknown)}. "
                "Is this the checkpoint of another model?"
            )
        return ours

    def publish(self, state: Mapping[str, T]) -> dict[str, T]:
        """One of our state dicts under published names; the way back of :meth:`translate`.

        Raises:
            KeyError: a name that the table doesn't know.
        """
        back = replace(self, folds=tuple(fold.inverse() for fold in self.folds))
        return {self.to_published(name): back._folded(name, value) for name, value in state.items()}

    def _folded(self, ours: str, value: T) -> T:
        for fold in self.folds:
            if _pattern(fold.name).fullmatch(ours):
                return fold(value)
        return value


def listed(names: Iterable[str]) -> str:
    """Names for an error message, sorted."""
    return ", ".join(sorted(names))


def _pattern(rule: str) -> re.Pattern[str]:
    def group(match: re.Match[str]) -> str:
        name = match.group(1)
        kind = r"\d+" if name in _NUMBERS else ".+" if name == "rest" else "[^.]+"
        return f"(?P<{name}>{kind})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(rule)))


def _translate(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in rules:
        match = pattern.fullmatch(name)
        if match:
            return target.format(**match.groupdict())
    raise KeyError(name)


_PFN = "pts_voxel_encoder.pfn_layers.0"
_STAGE = "pts_backbone.stages.{i}.{j}"
_OUR_STAGE = "lidar.backbone.stages.{i}.{j}"
_SPARSE = "pts_middle_encoder"
_SPARSE_STAGE = f"{_SPARSE}.encoder_layers.encoder_layer{{i}}.{{j}}"
_OUR_SPARSE_STAGE = "lidar.middle.stages.{i}.{j}"
_LAYER = "pts_bbox_head.transformer.decoder.layers.{l}"
_OUR_LAYER = "head.decoder.layers.{l}"
_TASK = "pts_bbox_head.task_heads.0.{branch}"
_OUR_TASK = "head.tasks.branches.{branch}"

#: LiDAR branch of PillarNeSt (WayneMao/PillarNeSt). ``pts_backbone.bias`` is held and never used
#: there.
PILLARNEST_LIDAR_KEYS = (
    (f"{_PFN}.linear.weight", "lidar.encoder.linear.weight"),
    (f"{_PFN}.norm.{{leaf}}", "lidar.encoder.norm.{leaf}"),
    ("pts_backbone.downsample_layers.{i}.{j}.{leaf}", "lidar.backbone.downsample.{i}.{j}.{leaf}"),
    (f"{_STAGE}.gamma", f"{_OUR_STAGE}.gamma"),
    (f"{_STAGE}.depthwise_conv.{{leaf}}", f"{_OUR_STAGE}.depthwise.{{leaf}}"),
    (f"{_STAGE}.norm.{{leaf}}", f"{_OUR_STAGE}.norm.{{leaf}}"),
    (f"{_STAGE}.pointwise_conv1.{{leaf}}", f"{_OUR_STAGE}.expand.{{leaf}}"),
    (f"{_STAGE}.pointwise_conv2.{{leaf}}", f"{_OUR_STAGE}.reduce.{{leaf}}"),
    ("pts_backbone.norm{i}.{leaf}", "lidar.backbone.norms.{i}.{leaf}"),
    ("pts_neck.deblocks.{i}.{j}.{leaf}", "lidar.neck.branches.{i}.{j}.{leaf}"),
)

#: LiDAR branch of CMT (junjie18/CMT) and CenterPoint by voxels; its neck is PillarNeSt's.
SECOND_KEYS = (
    (f"{_SPARSE}.conv_input.0.{{leaf}}", "lidar.middle.input.conv.{leaf}"),
    (f"{_SPARSE}.conv_input.1.{{leaf}}", "lidar.middle.input.norm.{leaf}"),
    (f"{_SPARSE}.conv_out.0.{{leaf}}", "lidar.middle.output.conv.{leaf}"),
    (f"{_SPARSE}.conv_out.1.{{leaf}}", "lidar.middle.output.norm.{leaf}"),
    (f"{_SPARSE_STAGE}.conv{{l}}.{{leaf}}", f"{_OUR_SPARSE_STAGE}.conv{{l}}.{{leaf}}"),
    (f"{_SPARSE_STAGE}.bn{{l}}.{{leaf}}", f"{_OUR_SPARSE_STAGE}.norm{{l}}.{{leaf}}"),
    (f"{_SPARSE_STAGE}.0.{{leaf}}", f"{_OUR_SPARSE_STAGE}.conv.{{leaf}}"),
    (f"{_SPARSE_STAGE}.1.{{leaf}}", f"{_OUR_SPARSE_STAGE}.norm.{{leaf}}"),
    ("pts_backbone.blocks.{i}.{j}.{leaf}", "lidar.backbone.blocks.{i}.{j}.{leaf}"),
)

#: Image branch of CMT: the names of ResNet and VoVNet are the published ones behind another prefix.
IMAGE_KEYS = (
    ("img_neck.lateral_convs.{i}.conv.{leaf}", "image.neck.laterals.{i}.{leaf}"),
    ("img_neck.fpn_convs.0.conv.{leaf}", "image.neck.output.{leaf}"),
    ("img_backbone.{rest}", "image.backbone.{rest}"),
)

#: Tokens, queries and head of CMT (junjie18/CMT), all three variants.
CMT_HEAD_KEYS = (
    ("pts_bbox_head.shared_conv.conv.weight", "tokens.shared_conv.0.weight"),
    ("pts_bbox_head.shared_conv.bn.{leaf}", "tokens.shared_conv.1.{leaf}"),
    ("pts_bbox_head.bev_embedding.{i}.{leaf}", "tokens.plane.embedding.{i}.{leaf}"),
    ("pts_bbox_head.rv_embedding.{i}.{leaf}", "tokens.ray.embedding.{i}.{leaf}"),
    ("pts_bbox_head.reference_points.weight", "queries.reference"),
    (f"{_LAYER}.attentions.0.attn.{{rest}}", f"{_OUR_LAYER}.self_attention.{{rest}}"),
    (f"{_LAYER}.attentions.1.attn.{{rest}}", f"{_OUR_LAYER}.cross_attention.{{rest}}"),
    (f"{_LAYER}.ffns.0.layers.0.0.{{leaf}}", f"{_OUR_LAYER}.expand.{{leaf}}"),
    (f"{_LAYER}.ffns.0.layers.1.{{leaf}}", f"{_OUR_LAYER}.reduce.{{leaf}}"),
    (f"{_LAYER}.norms.{{i}}.{{leaf}}", f"{_OUR_LAYER}.norms.{{i}}.{{leaf}}"),
    ("pts_bbox_head.transformer.decoder.post_norm.{leaf}", "head.decoder.post_norm.{leaf}"),
    (f"{_TASK}.0.weight", f"{_OUR_TASK}.hidden_weight"),
    (f"{_TASK}.1.{{leaf}}", f"{_OUR_TASK}.norm_{{leaf}}"),
    (f"{_TASK}.3.{{leaf}}", f"{_OUR_TASK}.output_{{leaf}}"),
)

#: CMT with a LiDAR branch (PillarNeSt's or SECOND's), an image branch, or both.
CMT_KEYS = KeyTable(
    rules=PILLARNEST_LIDAR_KEYS + SECOND_KEYS + IMAGE_KEYS + CMT_HEAD_KEYS,
    ignored=("pts_backbone.bias",),
)

_CENTER_TASK = "pts_bbox_head.task_heads.{i}.{branch}"
_OUR_CENTER_TASK = "head.task_branches.{i}.{branch}"

#: Centre head of PillarNeSt (WayneMao/PillarNeSt).
CENTER_HEAD_KEYS = (
    ("pts_bbox_head.shared_conv.conv.weight", "head.shared.0.weight"),
    ("pts_bbox_head.shared_conv.bn.{leaf}", "head.shared.1.{leaf}"),
    (f"{_CENTER_TASK}.0.conv.weight", f"{_OUR_CENTER_TASK}.0.0.weight"),
    (f"{_CENTER_TASK}.0.bn.{{leaf}}", f"{_OUR_CENTER_TASK}.0.1.{{leaf}}"),
    (f"{_CENTER_TASK}.1.{{leaf}}", f"{_OUR_CENTER_TASK}.1.{{leaf}}"),
)

#: Box convention of mmdetection3d before 1.0 to ours: (width, length, height) to (length, width,
#: height), and yaw_old = -yaw - pi/2, so that (sin, cos) of yaw is (-cos, -sin) of yaw_old.
OLD_BOX_FOLDS = (
    RowFold("head.task_branches.{i}.dim.1.{leaf}", order=(1, 0, 2), sign=(1, 1, 1)),
    RowFold("head.task_branches.{i}.rot.1.{leaf}", order=(1, 0), sign=(-1, -1)),
)

#: PillarNeSt, all four sizes. The published files hold the old box convention, which ends here.
PILLARNEST_KEYS = KeyTable(
    rules=PILLARNEST_LIDAR_KEYS + CENTER_HEAD_KEYS,
    ignored=("pts_backbone.bias",),
    folds=OLD_BOX_FOLDS,
)
