"""The rules of the Argoverse 2 detection task, shared by evaluator, writer and validator.

Sources: av2 0.3.6, `evaluation/__init__.py` (categories), `evaluation/detection/utils.py`
(defaults of its configuration) and `evaluation/detection/SUBMISSION_FORMAT.md` (columns).
"""

from __future__ import annotations

import math
import re

from perception3d.structures.taxonomy_av2 import AV2_CLASSES, AV2_IGNORED_CATEGORIES

AV2_CATEGORIES = AV2_CLASSES
"""The evaluated categories, in the official order (which is the alphabet's: ties rest on it)."""

AV2_UNEVALUATED = AV2_IGNORED_CATEGORIES
"""Categories of the annotations that the evaluator passes over."""

THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
"""A detection is right nearer than this to its object, between centres in three dimensions."""

ERROR_THRESHOLD_M = 2.0
"""The threshold whose true positives the three errors are taken from."""

WORST_ERRORS = (2.0, 1.0, math.pi)
"""ATE (m), ASE and AOE (rad) where there is no true positive."""

MAX_RANGE_M = 150.0
"""Centres must be nearer to the ego frame's origin, in three dimensions."""

MAX_PER_CATEGORY = 100
"""Detections of one category in one sweep that count: the best in range."""

NUM_DECIMALS = 3
"""The official table is rounded so."""

BOX_COLUMNS = (
    "tx_m",
    "ty_m",
    "tz_m",
    "length_m",
    "width_m",
    "height_m",
    "qw",
    "qx",
    "qy",
    "qz",
)
"""The ten numbers of a box in the ego frame of its sweep; the order of every (N, 10) array here."""

DETECTION_COLUMNS = (*BOX_COLUMNS, "score", "log_id", "timestamp_ns", "category")
"""The fourteen columns of a submission."""

TRUTH_COLUMNS = (*BOX_COLUMNS, "num_interior_pts", "timestamp_ns", "category")
"""What is read of a log's annotations."""

UNIT_TOLERANCE = 1e-3
"""A quaternion's length may differ from 1 by so much (the official code divides by it)."""

_TOKEN = re.compile(r"(.+)[/:@_ -](\d+)", re.DOTALL)


def split_token(token: str) -> tuple[str, int]:
    """(log, time in ns) of a sample's token "<log>:<time>".

    Instead of the colon there may be any of ``/@_-`` or a space.

    Raises:
        ValueError: the token is not built so.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError(
            f"{token!r} is no token of an Argoverse 2 sweep; it must be '<log id>:<timestamp_ns>'"
        )
    return match[1], int(match[2])
