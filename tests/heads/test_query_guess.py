"""A head that starts from a guess answers with it until it has learned better."""

from __future__ import annotations

import math

import torch

from perception3d.heads.box_code import encode_boxes, join_slots
from perception3d.heads.queries import Guess, QuerySet
from perception3d.heads.query import QueryHead
from perception3d.heads.query_decoder import QueryDecoder
from perception3d.heads.query_denoising import DenoisingBuilder
from perception3d.structures import Boxes3D

RANGE_M = (-40.0, -40.0, -5.0, 40.0, 40.0, 3.0)


def boxes() -> Boxes3D:
    return Boxes3D.build(
        torch.tensor([[1.0, 15.0, -1.0], [-30.0, 8.0, 0.5], [20.0, -33.0, -0.8]]),
        torch.tensor([[4.5, 1.9, 1.6], [0.7, 0.7, 1.8], [11.0, 2.9, 3.4]]),
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


def head() -> QueryHead:
    torch.manual_seed(0)
    return QueryHead(
        decoder=QueryDecoder(channels=16, layers=2, heads=2, hidden=32),
        num_classes=10,
        range_m=RANGE_M,
        residual=True,
    ).eval()


def code(reference: torch.Tensor) -> torch.Tensor:
    return reference.new_zeros(*reference.shape[:2], 16)


def test_the_first_answer_is_the_guess() -> None:
    memory = torch.randn(1, 20, 16)
    outputs = head()(memory, memory, guessed(), code)
    wanted = encode_boxes(boxes())
    assert torch.allclose(outputs.box[-1, 0], wanted, atol=1e-3)
    decoded, score = head().decode(outputs)[0]
    order = decoded.label[:3]
    assert sorted(order.tolist()) == [0, 3, 8]
    assert torch.allclose(score[:3], torch.full((3,), 2.0).sigmoid())


def test_denoising_queries_have_no_guess() -> None:
    memory = torch.randn(1, 20, 16)
    noise = DenoisingBuilder(range_m=RANGE_M, num_classes=10, query_budget=6)([boxes()])
    assert noise is not None
    outputs = head()(memory, memory, guessed(), code, noise)
    assert torch.allclose(outputs.box[-1, 0], encode_boxes(boxes()), atol=1e-3)
    assert outputs.denoising_logits is not None
    assert bool((outputs.denoising_logits == 0).all())


def test_slots_are_joined_in_the_published_order() -> None:
    vector = join_slots(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([4.0, 5.0, 6.0]),
        torch.tensor([7.0, 8.0]),
        torch.tensor([9.0, 10.0]),
    )
    assert vector.tolist() == [1.0, 2.0, 4.0, 5.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0]
