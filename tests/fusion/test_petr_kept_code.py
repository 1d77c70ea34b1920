"""PETR's codes of a fixed rig: made once, the same bits, made again for another rig."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception3d.models.petr import PETR
from perception3d.structures import Batch
from tests.models.test_petr import small_petr, two_frames


def answers(model: PETR, batch: Batch) -> tuple[Tensor, Tensor]:
    found = model(batch).detection
    assert found is not None
    return found.box, found.logits


@pytest.mark.parametrize("multiple", [16, 32], ids=["whole cells", "padding"])
def test_codes_of_a_fixed_rig_are_made_once(multiple: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small_petr(multiple=multiple).eval(), two_frames()
    wanted = answers(model, batch)  # with gradients: nothing is kept
    made = {"rays": 0, "views": 0}
    assert model.tokens.views is not None
    rays, views = model.tokens.rays.forward, model.tokens.views.forward

    def counted_rays(*arguments: object) -> Tensor:
        made["rays"] += 1
        return rays(*arguments)  # type: ignore[arg-type]

    def counted_views(code: Tensor) -> Tensor:
        made["views"] += 1
        return views(code)

    monkeypatch.setattr(model.tokens.rays, "forward", counted_rays)
    monkeypatch.setattr(model.tokens.views, "forward", counted_views)
    with torch.no_grad():
        for _ in range(3):
            for got, want in zip(answers(model, batch), wanted):
                assert torch.equal(got, want)
        assert made == {"rays": 1, "views": 1}
        assert batch.rig is not None
        moved = batch.rig.cam_SE3_ref.clone()
        moved[..., 0, 3] += 0.5
        other = replace(batch, rig=replace(batch.rig, cam_SE3_ref=moved))
        changed = answers(model, other)
        assert made == {"rays": 2, "views": 1} and not torch.equal(changed[0], wanted[0])
        model.tokens.rays.embedding[2].bias.add_(0.1)  # type: ignore[union-attr, operator]
        answers(model, other)
        assert made == {"rays": 3, "views": 1}
