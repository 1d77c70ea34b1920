"""Camera images: decoding with the damage found that decoders pass over."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

#: JPEG can be decoded at a half, a quarter or an eighth of its size in less time than whole.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_image(
    path: Path, *, token: str, hw: tuple[int, int] | None = None, reduce: int = 1
) -> Tensor:
    """Decode a JPEG or PNG file.

    Args:
        path: image file.
        token: sample it belongs to, for messages.
        hw: height and width that the file must have; None accepts any.
        reduce: 1, 2, 4 or 8: decode at that fraction of the size (each side rounded up), which
            averages pixels; positions scale by exactly the fraction when the image is taken to span
            [0, width].

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, no image, or of another size; names file and sample.
    """
    what = f"image {path} of sample {token}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} is missing; unpack the blobs it belongs to") from None
    # Decoders fill what is missing with grey and only warn. The end mark cannot occur inside the
    # entropy-coded scan, so a file whose last scan is not followed by it was cut.
    if data[:2] == _START and data.rfind(_END) < data.rfind(_SCAN):
        raise ValueError(f"{what} is truncated ({len(data)} bytes, no end mark); copy it again")
    image = (
        cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
        if data
        else None
    )
    if image is None:
        raise ValueError(f"{what} cannot be decoded ({len(data)} bytes); it is damaged or no image")
    if hw is not None:
        expected = (-(-hw[0] // reduce), -(-hw[1] // reduce))
        if image.shape[:2] != expected:
            raise ValueError(
                f"{what} is {image.shape[0]} x {image.shape[1]} pixels after decoding at "
                f"1/{reduce}; the tables say {hw[0]} x {hw[1]}. Tables and blobs do not belong "
                "together"
            )
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))
