"""PETR's head starts from a guess and answers with it until it has learned better."""

from __future__ import annotations

import math

import pytest
import torch

from perception3d.heads.box_code import encode_boxes
from perception3d.heads.petr import PETRHead, petr_denoising
from perception3d.heads.petr_box_code import encode_petr_boxes, petr_slots
from perception3d.heads.queries import Guess, QuerySet
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.structures import Boxes3D

RANGE_M = (-40.0, -40.0, -5.0, 40.0, 40.0, 3.0)


def boxes() -> Boxes3D:
    return Boxes3D.build(
        torch.tensor([[1.0, 15.0, -1.0], [-30.0, 8.0, 0.5], [20.0, -33.0, -0.8]]),
        torch.tensor([[4.5, 1.9, 1.6], [0.7, 0.8, 1.8], [31.0, 2.9, 3.4]]),
        torch.tensor([math.pi / 2, -2.0, 0.3]),
        torch.tensor([0, 8, 3]),
        velocity_mps=torch.tensor([[0.0, 5.0], [1.0, -0.5], [0.0, 0.0]]),
    )


def guessed() -> QuerySet:
    """Queries that already know the boxes."""
    known = boxes()
    low, high = torch.tensor(RANGE_M[:3]), torch.tensor(RANGE_M[3:])
    logits = torch.full((1, 3, 10), -6.0)
    logits[0, torch.arange(3), known.label] = 2.0
    reference = ((known.center_m - low) / (high - low))[None]
    return QuerySet(reference, torch.randn(1, 3, 16), Guess(encode_boxes(known)[None], logits))


def head(*, split: bool) -> PETRHead:
    torch.manual_seed(0)
    decoder = QueryDecoder(channels=16, layers=2, heads=2, hidden=32)
    return PETRHead(
        decoder=decoder, num_classes=10, range_m=RANGE_M, split=split, residual=True
    ).eval()


def test_slots_of_both_codes() -> None:
    assert torch.allclose(petr_slots(encode_boxes(boxes())), encode_petr_boxes(boxes()))


@pytest.mark.parametrize("split", [True, False])
def test_the_first_answer_is_the_guess(split: bool) -> None:
    memory = torch.randn(1, 20, 16)
    outputs = head(split=split)(memory, memory, guessed(), gap_s=torch.tensor([1.25]))
    for layer in outputs.box:
        assert torch.allclose(layer[0], encode_petr_boxes(boxes()), atol=1e-3)
    (found, score), known = head(split=split).decode(outputs)[0], boxes()
    order = [found.label.tolist().index(label) for label in known.label.tolist()]
    assert torch.allclose(found.velocity_mps[order], known.velocity_mps, atol=1e-3)
    assert torch.allclose(found.size_lwh_m[order], known.size_lwh_m, rtol=1e-3)
    assert torch.allclose(score[:3], torch.full((3,), 2.0).sigmoid())


def test_displacements_are_added_to_the_guessed_velocity() -> None:
    model = head(split=True)
    for branch in model.boxes.copies:
        torch.nn.init.constant_(branch.heads[-1][-1].bias, 0.5)  # type: ignore[index, union-attr]
    memory = torch.randn(1, 20, 16)
    outputs = model(memory, memory, guessed(), gap_s=torch.tensor([0.25]))
    # Half a metre in a quarter of a second.
    assert torch.allclose(outputs.box[-1, 0, :, 8:], boxes().velocity_mps + 2.0, atol=1e-5)


def test_denoising_queries_have_no_guess() -> None:
    noise = petr_denoising(10, range_m=RANGE_M, groups=2)([boxes()])
    assert noise is not None
    memory = torch.randn(1, 20, 16)
    outputs = head(split=True)(memory, memory, guessed(), denoising=noise)
    assert torch.allclose(outputs.box[-1, 0], encode_petr_boxes(boxes()), atol=1e-3)
    assert outputs.denoising_logits is not None and bool((outputs.denoising_logits == 0).all())
