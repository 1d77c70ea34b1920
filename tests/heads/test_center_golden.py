"""The published centre head (PillarNeSt) against ours: maps, targets, losses, decoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception3d.engine.checkpoints import load_published
from perception3d.engine.key_tables import PILLARNEST_KEYS
from perception3d.heads.center_decode import (
    Candidates,
    CircleSuppression,
    RotatedSuppression,
)
from perception3d.heads.center_targets import CenterTargets
from perception3d.structures import BEVFeatures
from tests.golden_cases import GoldenCase, golden, load_case
from tests.heads.center_cases import (
    BRANCHES,
    SWAPS,
    check_boxes,
    check_maps,
    from_old,
    head_of,
    outputs_of,
    to_old,
)


@pytest.mark.parametrize("name", golden("center_head_forward"))
@torch.no_grad()
def test_golden_center_head_forward(name: str) -> None:
    case = load_case(name)
    feature = case.inputs()["feature"]
    head = head_of(case, in_channels=feature.shape[1])
    load_published(head, case.weights(), table=PILLARNEST_KEYS, prefix="head.")
    check_maps(case, head.eval()(BEVFeatures(feature, head.grid)), head.tasks)
    case.finish()


def slots(targets: CenterTargets, task: int, values: Tensor, shape: list[int]) -> Tensor:
    """Values (M, ...) of a task's objects, laid out in slots (B, S, ...)."""
    rows = targets.task == task
    out = torch.zeros(shape, dtype=values.dtype)
    out[targets.sample[rows], targets.slot[rows]] = values[rows]
    return out


@pytest.mark.parametrize("name", golden("center_head_targets"))
def test_golden_center_head_targets(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    head = head_of(case)
    boxes = [from_old(*sample) for sample in zip(inputs["gt_boxes"], inputs["gt_labels"])]
    targets = head.assign(boxes)
    heat = targets.heat.split(list(head.tasks), dim=1)
    vector = targets.vector.clone()
    for columns, swap in ((slice(3, 6), SWAPS["dim"]), (slice(6, 8), SWAPS["rot"])):
        vector[:, columns] = swap(targets.vector[:, columns])
    for t, of_task in enumerate(heat):
        case.check(f"task{t}_heatmap", of_task)
        one = torch.ones_like(targets.cell)
        for output, values in (("ind", targets.cell), ("mask", one), ("anno_box", vector)):
            shape = case.shape(f"task{t}_{output}")
            case.check(f"task{t}_{output}", slots(targets, t, values, shape))
    case.finish()


def raw_maps(inputs: dict[str, Tensor], tasks: tuple[int, ...]) -> dict[str, Tensor]:
    maps = {f"task{t}_{b}": inputs[f"task{t}_{b}"] for t in range(len(tasks)) for b in BRANCHES}
    for (sample, task, row, column), values in zip(
        inputs.get("override_index", torch.zeros(0, 4)).long().tolist(),
        inputs.get("override_values", torch.zeros(0, 10)),
    ):
        parts = values.split([2, 1, 3, 2, 2])
        for branch, part in zip(BRANCHES, parts):
            maps[f"task{task}_{branch}"][sample, :, row, column] = part
    return maps


@pytest.mark.parametrize("name", golden("center_head_loss"))
def test_golden_center_head_loss(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    head = head_of(case)
    maps = raw_maps(inputs, head.tasks)
    for value in maps.values():
        value.requires_grad_()
    outputs = outputs_of(maps, head.tasks)
    boxes = [from_old(*sample) for sample in zip(inputs["gt_boxes"], inputs["gt_labels"])]
    terms = head.loss(outputs, boxes)
    assert len(terms) == 3 * len(head.tasks)
    for term, value in terms.items():
        case.check(term.replace(".", "_"), value)
    total = torch.stack(list(terms.values())).sum()
    case.check("total", total)
    total.backward()

    targets = head.assign(boxes)
    vector = outputs.box.flatten(3)[targets.sample, targets.task, :, targets.cell]
    overlap = head.center_loss.overlap(vector, targets, head.grid)
    for t in range(len(head.tasks)):
        shape = case.shape(f"task{t}_iou_target")
        case.check(f"task{t}_iou_target", slots(targets, t, overlap, shape))
        for branch in BRANCHES:
            grad = maps[f"task{t}_{branch}"].grad
            assert grad is not None
            case.check(f"task{t}_grad_{branch}", grad)
            if branch == "heatmap":
                # Element by element: the gradient at objects dwarfs that of the background.
                want = torch.from_numpy(case.arrays[f"out/task{t}_grad_heatmap"]).view_as(grad)
                torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-7)
    case.finish()


@pytest.mark.parametrize("name", golden("center_head_decode"))
def test_golden_center_head_decode(name: str) -> None:
    case = load_case(name)
    inputs = case.inputs()
    head = head_of(case)
    outputs = outputs_of(raw_maps(inputs, head.tasks), head.tasks)
    found = head.decoder.candidates(outputs.heat, outputs.box, outputs.iou)
    for sample in range(len(outputs.heat)):
        check_candidates(case, sample, found, head.tasks)
    for mode, suppression in (("rotate", RotatedSuppression()), ("circle", CircleSuppression())):
        kept = suppression(found, len(head.tasks))
        for sample in range(len(outputs.heat)):
            rows = kept.group // len(head.tasks) == sample
            check_boxes(case, f"{mode}_{sample}_", kept.select(rows))
    case.finish()


def check_candidates(
    case: GoldenCase, sample: int, found: Candidates, tasks: tuple[int, ...]
) -> None:
    first = 0
    for t, classes in enumerate(tasks):
        one = found.select(found.group == sample * len(tasks) + t)
        prefix = f"pre_{sample}_task{t}_"
        shape = case.shape(f"{prefix}boxes")
        want = torch.from_numpy(case.arrays[f"out/{prefix}boxes"]).view(shape)
        case.check(f"{prefix}boxes", to_old(one, want, bottom=False))
        case.check(f"{prefix}heat", one.heat)
        case.check(f"{prefix}iou", one.iou)
        case.check(f"{prefix}labels", one.label - first)
        assert torch.equal((one.label - first).float(), _stored(case, f"{prefix}labels"))
        first += classes


def _stored(case: GoldenCase, output: str) -> Tensor:
    return torch.from_numpy(case.arrays[f"out/{output}"]).view(case.shape(output)).float()
