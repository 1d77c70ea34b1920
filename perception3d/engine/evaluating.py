"""Scoring a model during training and in tools/test.py; over several processes as over one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from perception3d.datasets.nuscenes import NuScenesFrames
from perception3d.datasets.samples import FrameDataset
from perception3d.engine.experiment import CountingEvaluator, Evaluator, Experiment, Samples
from perception3d.engine.loading import eval_loader
from perception3d.engine.prediction import predict
from perception3d.engine.progress import Progress

CHUNK = 64
"""Predictions handed to the evaluators at once."""


def build_evaluators(
    experiment: Experiment, folder: Path, say: Callable[[str], None] = print
) -> list[Evaluator]:
    """The experiment's evaluators; empty, with one line said, when their packages are missing."""
    try:
        return [build(folder) for build in experiment.evaluators]
    except ImportError as error:
        say(f"evaluation skipped: {error}")
        return []


def evaluate(
    experiment: Experiment,
    model: nn.Module,
    samples: Samples,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, float] | None:
    """Predict every sample and score.

    Every process calls this with its rank; the scores are made on rank 0.

    Args:
        experiment: gives evaluators, batch size and workers.
        model: on ``device``.
        samples: what to predict.
        folder: for the evaluators' files.
        device, rank, world_size: this process.
        quiet: no progress line. say: takes messages.

    Returns:
        The headline figures of all evaluators on rank 0; None elsewhere, and without evaluators.
    """
    evaluators = build_evaluators(experiment, folder, say if rank == 0 else _silent)
    if not _same_everywhere(bool(evaluators), world_size):
        return None
    counting = [e for e in evaluators if isinstance(e, CountingEvaluator) and world_size > 1]
    whole = [e for e in evaluators if e not in counting] if rank == 0 else []
    loader = eval_loader(
        samples,
        batch_size=experiment.val_batch_size or experiment.batch_size,
        workers=experiment.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=torch.device(device).type == "cuda",
    )
    number = len(range(rank, len(samples.dataset), world_size))  # type: ignore[arg-type]
    progress = Progress(number, "evaluation", quiet=quiet or rank > 0)
    for evaluator in (*whole, *counting):
        evaluator.reset()
    pending: list[Any] = []
    for prediction in predict(model, loader, device, progress=progress):
        for evaluator in counting:
            evaluator.process([prediction])
            prediction = evaluator.rest(prediction)
        pending.append(prediction)
        if world_size == 1 and len(pending) == CHUNK:
            _process(whole, pending)
            pending = []
    if world_size > 1:
        pending = _gathered(pending, rank, world_size)
        _merge(counting, rank, world_size)
    if rank > 0:
        return None
    _process(whole, pending)
    return _scores(evaluators, say)


def ego_positions_m(frames: object) -> dict[str, list[float]] | None:
    """By sample token where the vehicle stood: global x, y, z in metres.

    For the validator of submissions, which then notices predictions in a wrong frame.

    Args:
        frames: a nuScenes split, or a data set with transforms over one; anything else has no
            positions (None).
    """
    if isinstance(frames, FrameDataset):
        frames = frames.frames
    if not isinstance(frames, NuScenesFrames):
        return None
    bare = copy.copy(frames)  # poses only: no sensor file is read
    bare.cameras, bare.map_grid = (), None
    bare.load_points = bare.load_images = bare.load_boxes = False
    position_m = {}
    for index in range(len(bare)):
        frame = bare[index]
        global_SE3_ego = frame.global_SE3_ref @ frame.ego_SE3_ref.inverse()
        position_m[frame.token] = global_SE3_ego.translation_m.tolist()
    return position_m


def _scores(evaluators: list[Evaluator], say: Callable[[str], None]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for evaluator in evaluators:
        metrics = evaluator.evaluate()
        say(metrics.table())
        scores.update(metrics.summary())
    return scores


def _process(evaluators: list[Evaluator], predictions: list[Any]) -> None:
    for evaluator in evaluators:
        evaluator.process(predictions)


def _merge(evaluators: list[CountingEvaluator], rank: int, world_size: int) -> None:
    """Counts of all processes to the evaluators of rank 0."""
    parts: list[list[Any] | None] | None = [None] * world_size if rank == 0 else None
    dist.gather_object([evaluator.counted() for evaluator in evaluators], parts, dst=0)
    for part in (parts or [])[1:]:
        for evaluator, counts in zip(evaluators, part or []):
            if counts is not None:
                evaluator.merge(counts)


def _silent(text: str) -> None:
    """What other processes than the first one say."""


def _gathered(mine: list[Any], rank: int, world_size: int) -> list[Any]:
    parts: list[list[Any] | None] | None = [None] * world_size if rank == 0 else None
    dist.gather_object(mine, parts, dst=0)
    # Sample i was predicted by process i mod world_size: interleave to the data set's order.
    lists = [part or [] for part in parts or []]
    longest = max((len(part) for part in lists), default=0)
    return [part[i] for i in range(longest) for part in lists if i < len(part)]


def _same_everywhere(value: bool, world_size: int) -> bool:
    """Rank 0's value on every process."""
    if world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
