"""Names of weights in published checkpoints of PETR and PETRv2 (megvii-research/PETR), and here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perception3d.engine.key_tables import IMAGE_KEYS, KeyTable, listed

_HEAD = "pts_bbox_head."

#: A checkpoint holds a module that all decoder layers share once a layer; copy 0 stands for all.
_COPIES = tuple(range(1, 6))
_LANE_COPIES = tuple(
    f"{_HEAD}lane_branches_{task}.{copy}.{{rest}}"
    for task in ("dri", "lan", "vie")
    for copy in _COPIES
)
_BRANCH_COPIES = tuple(
    f"{_HEAD}{branch}_branches.{copy}.{{rest}}" for branch in ("cls", "reg") for copy in _COPIES
)

_TOKEN_KEYS = (
    (f"{_HEAD}input_proj.{{leaf}}", "tokens.project.{leaf}"),
    (f"{_HEAD}position_encoder.{{i}}.{{leaf}}", "tokens.rays.embedding.{i}.{leaf}"),
    (f"{_HEAD}adapt_pos3d.{{i}}.{{leaf}}", "tokens.views.{i}.{leaf}"),
)


def _gate_keys(published: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{_HEAD}{published}.conv_reduce.{{leaf}}", "tokens.gate.layers.0.{leaf}"),
        (f"{_HEAD}{published}.conv_expand.{{leaf}}", "tokens.gate.layers.2.{leaf}"),
    )


def _decoder_keys(transformer: str, part: str) -> tuple[tuple[str, str], ...]:
    layer = f"{_HEAD}{transformer}.decoder.layers.{{l}}"
    ours = f"{part}.decoder.layers.{{l}}"
    return (
        (f"{layer}.attentions.0.attn.{{rest}}", f"{ours}.self_attention.{{rest}}"),
        (f"{layer}.attentions.1.attn.{{rest}}", f"{ours}.cross_attention.{{rest}}"),
        (f"{layer}.ffns.0.layers.0.0.{{leaf}}", f"{ours}.expand.{{leaf}}"),
        (f"{layer}.ffns.0.layers.1.{{leaf}}", f"{ours}.reduce.{{leaf}}"),
        (f"{layer}.norms.{{i}}.{{leaf}}", f"{ours}.norms.{{i}}.{{leaf}}"),
        (f"{_HEAD}{transformer}.decoder.post_norm.{{leaf}}", f"{part}.decoder.post_norm.{{leaf}}"),
    )


_QUERY_KEYS = (
    (f"{_HEAD}reference_points.weight", "queries.reference"),
    (f"{_HEAD}query_embedding.{{i}}.{{leaf}}", "head.query_code.embedding.{i}.{leaf}"),
    *_decoder_keys("transformer", "head"),
)

_BOX = f"{_HEAD}reg_branches.{{l}}"
_OUR_BOX = "head.boxes.copies.{l}"

#: PETR: one class and one box branch for all decoder layers.
PETR_KEYS = KeyTable(
    rules=(
        *IMAGE_KEYS,
        *_TOKEN_KEYS,
        *_QUERY_KEYS,
        (f"{_HEAD}cls_branches.0.{{i}}.{{leaf}}", "head.classes.copies.0.{i}.{leaf}"),
        (f"{_HEAD}reg_branches.0.{{i}}.{{leaf}}", "head.boxes.copies.0.{i}.{leaf}"),
    ),
    ignored=(f"{_HEAD}code_weights", *_BRANCH_COPIES),
)

#: PETRv2, with or without denoising: gate, branches of every decoder layer by themselves. The
#: published trunk has a dropout (of nothing) behind its first ReLU, so its second layer is number 3
#: there.
PETRV2_KEYS = KeyTable(
    rules=(
        *IMAGE_KEYS,
        *_TOKEN_KEYS,
        *_gate_keys("fpe"),
        *_QUERY_KEYS,
        (f"{_HEAD}cls_branches.{{l}}.{{i}}.{{leaf}}", "head.classes.copies.{l}.{i}.{leaf}"),
        (f"{_BOX}.reg_branch.0.{{leaf}}", f"{_OUR_BOX}.trunk.0.{{leaf}}"),
        (f"{_BOX}.reg_branch.3.{{leaf}}", f"{_OUR_BOX}.trunk.2.{{leaf}}"),
        (f"{_BOX}.task_heads.{{i}}.{{j}}.{{leaf}}", f"{_OUR_BOX}.heads.{{i}}.{{j}}.{{leaf}}"),
    ),
    ignored=(f"{_HEAD}code_weights",),
)

_LANE = f"{_HEAD}lane_branches_{{task}}.0"
_OUR_LANE = "segmentation.maps.{task}"

#: PETRv2 for segmentation from above: three map decoders, each shared by all decoder layers.
PETR_SEG_KEYS = KeyTable(
    rules=(
        *IMAGE_KEYS,
        *_TOKEN_KEYS,
        *_gate_keys("se"),
        (
            f"{_HEAD}query_embedding_lane.{{i}}.{{leaf}}",
            "segmentation.query_code.embedding.{i}.{leaf}",
        ),
        *_decoder_keys("transformer_lane", "segmentation"),
        (f"{_LANE}.layers.{{i}}.conv.1.weight", f"{_OUR_LANE}.blocks.{{i}}.wide.weight"),
        (f"{_LANE}.layers.{{i}}.conv.3.weight", f"{_OUR_LANE}.blocks.{{i}}.narrow.weight"),
        (f"{_LANE}.layers.{{i}}.up.{{leaf}}", f"{_OUR_LANE}.blocks.{{i}}.skip.{{leaf}}"),
        (f"{_LANE}.to_logits.{{i}}.{{leaf}}", f"{_OUR_LANE}.logits.{{i}}.{{leaf}}"),
    ),
    ignored=_LANE_COPIES,
)


def refuse_unequal_copies(state: Mapping[str, Tensor], table: KeyTable) -> None:
    """Raise ValueError where copies of a shared module differ: the tables keep copy 0 only.

    Args:
        state: published name -> value.
        table: its ignored names tell the copies.
    """
    unequal = []
    for name, value in state.items():
        parts = name.removeprefix("module.").split(".")
        if len(parts) < 3 or not parts[2].isdigit() or table.to_ours(name) is not None:
            continue
        first = name.replace(f"{parts[1]}.{parts[2]}.", f"{parts[1]}.0.", 1)
        if first not in state or not torch.equal(state[first], value):
            unequal.append(name)
    if unequal:
        raise ValueError(
            f"{len(unequal)} weights differ from copy 0 of their shared module: {listed(unequal)}. "
            "Is this the checkpoint of a model with branches of every layer by themselves (PETRv2)?"
        )
