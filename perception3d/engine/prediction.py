"""Running a trained model over samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from perception3d.engine.progress import Progress
from perception3d.structures import Prediction


def predict(
    model: nn.Module,
    loader: Iterable[Any],
    device: torch.device | str = "cpu",
    *,
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """One prediction a sample, in the loader's order, on the CPU.

    The model is in evaluation mode meanwhile, in full precision (the published evaluations are),
    and gets no denoising queries. Its mode is put back afterwards.

    Args:
        model: follows the model contract (``forward``, ``predict``), already on ``device``.
        loader: yields batches with ``.to(device)``.
        device: where the model is.
        progress: counts samples; closed here.
    """
    batches = iter(loader)  # starts workers, which need not know of the mode
    with evaluation_mode(model), torch.inference_mode():
        for batch in batches:
            moved = batch.to(device)
            predictions = model.predict(model(moved), moved)  # type: ignore[operator]
            for prediction in predictions:
                yield prediction.to("cpu")
            if progress is not None:
                progress.advance(len(predictions))
                if progress.due:
                    progress.show()
    if progress is not None:
        progress.close()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` takes the first GPU when there is one.

    Raises:
        ValueError: CUDA is asked for and missing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no CUDA device; use --device cpu")
    return device
