"""Numbers and names of weights of published PETR and PETRv2 checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perception3d.engine.checkpoints import load_published
from perception3d.engine.key_tables import KeyTable
from perception3d.engine.key_tables_petr import (
    PETR_KEYS,
    PETR_SEG_KEYS,
    PETRV2_KEYS,
    refuse_unequal_copies,
)
from perception3d.models.image_branch import ImageBranch, vovnet_branch
from perception3d.models.petr import PETR
from perception3d.models.petr_published import CHANNELS, petr, petrv2, petrv2_segmentation
from tests.models.test_petr import small_petr

Build = Callable[[ImageBranch], PETR]

#: Model, table, tensors in a published file, millions of weights: unique, and with every copy.
PUBLISHED = {
    "petr": (petr, PETR_KEYS, 854, None, 83.01),
    "petrv2": (petrv2, PETRV2_KEYS, 966, 85.117, 85.117),
    "petrv2_seg": (petrv2_segmentation, PETR_SEG_KEYS, 1030, 84.86, 101.71),
}


def published_state(model: nn.Module, table: KeyTable) -> dict[str, Tensor]:
    """A checkpoint: our weights under published names, copies of shared modules six times."""
    state = {table.to_published(name): value for name, value in model.state_dict().items()}
    for name, value in list(state.items()):
        for number in range(1, 6):
            copy = name.replace("_branches.0.", f"_branches.{number}.")
            for task in ("dri", "lan", "vie"):
                copy = copy.replace(f"_{task}.0.", f"_{task}.{number}.")
            if copy not in state and table.to_ours(copy) is None:
                state[copy] = value
    if "pts_bbox_head.reference_points.weight" in state:
        state["pts_bbox_head.code_weights"] = torch.ones(10)
    return state


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_of_published_models(name: str) -> None:
    build, table, tensors, unique, listed = PUBLISHED[name]
    with torch.device("meta"):
        model = build(vovnet_branch(CHANNELS))
        state = published_state(model, table)
    assert len(state) == tensors
    weights = sum(p.numel() for p in model.parameters())
    if unique is not None:
        assert weights / 1e6 == pytest.approx(unique, abs=6e-3 if name == "petrv2_seg" else 6e-4)
    buffers = sum(v.numel() for k, v in state.items() if "running_" in k or "num_batches" in k)
    total = sum(v.numel() for v in state.values()) - buffers
    assert total / 1e6 == pytest.approx(listed, abs=6e-3)


def test_size_of_published_parts() -> None:
    with torch.device("meta"):
        image = vovnet_branch(CHANNELS)
        model = petrv2(image)
    parts = {
        "backbone": (image.backbone, 69.524),
        "neck": (image.neck, 1.049),
        "head": (nn.ModuleList([model.tokens, model.queries, model.head]), 14.544),
    }
    for part, millions in parts.values():
        assert sum(p.numel() for p in part.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert len(image.backbone.state_dict()) == 626
    head = [key for key in published_state(model, PETRV2_KEYS) if key.startswith("pts_bbox_head.")]
    assert len(head) == 334
    assert petrv2(image, queries=1500, denoising=True).queries.reference.shape == (1500, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("frames", "detection", "table"),
    [(1, True, PETR_KEYS), (2, True, PETRV2_KEYS), (2, False, PETR_SEG_KEYS)],
    ids=["petr", "petrv2", "petrv2_seg"],
)
def test_names_go_both_ways(frames: int, detection: bool, table: KeyTable) -> None:
    def model(seed: int) -> PETR:
        return small_petr(frames=frames, detection=detection, segmentation=not detection, seed=seed)

    source, target = model(1), model(2)
    state = published_state(source, table)
    refuse_unequal_copies(state, table)
    load_published(target, state, table=table)
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
        assert table.to_ours(table.to_published(name)) == name
    load_published(target, {f"module.{k}": v for k, v in state.items()}, table=table)
    without = {k: v for k, v in state.items() if "position_encoder.0.weight" not in k}
    with pytest.raises(ValueError, match=r"1 missing: tokens.rays.embedding.0.weight"):
        load_published(target, without, table=table)


def test_copies_that_differ_are_refused() -> None:
    state = published_state(small_petr(frames=1), PETR_KEYS)
    state["pts_bbox_head.cls_branches.3.6.bias"] = state["pts_bbox_head.cls_branches.3.6.bias"] + 1
    with pytest.raises(ValueError, match=r"1 weights differ.*cls_branches.3.6.bias"):
        refuse_unequal_copies(state, PETR_KEYS)
    prefixed = {f"module.{k}": v for k, v in state.items()}
    with pytest.raises(ValueError, match="1 weights differ"):
        refuse_unequal_copies(prefixed, PETR_KEYS)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    model = small_petr(frames=2)
    with pytest.raises(ValueError, match="not in the key table"):
        load_published(model, published_state(model, PETRV2_KEYS), table=PETR_KEYS)
