"""Results files read back: predictions in `ref` for viewers and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from perception3d.evaluation.box_rules import check_box
from perception3d.evaluation.findings import FindingList
from perception3d.evaluation.json_stream import JsonStream
from perception3d.geometry import matrix_from_quaternion, yaw_from_matrix
from perception3d.structures import SE3, Boxes3D, Prediction
from perception3d.structures.taxonomy import NUSCENES_ATTRIBUTES, NUSCENES_CLASSES


def predictions_from_submission(
    path: str | Path,
    poses: Mapping[str, tuple[SE3, SE3]],
    *,
    classes: Sequence[str] = NUSCENES_CLASSES,
) -> list[Prediction]:
    """Reads the samples named in `poses` from a nuScenes results file.

    The inverse of `SubmissionWriter`, to better than 1e-4 m, rad and m/s. The heading is that of
    the box's length axis seen from above in `ref`; the velocity in `ref` is the one whose
    horizontal part in the global frame is the file's.

    Args:
        path: results JSON; other samples in it are passed over.
        poses: (global_SE3_ref, ego_SE3_ref) by sample token.
        classes: detection class of each label.

    Returns:
        One prediction for each entry of `poses`, in its order; float32 on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, a box breaks a rule, or a sample is missing.
    """
    found: dict[str, Prediction] = {}
    for token, boxes in read_samples(path):
        if token in poses:
            global_SE3_ref, ego_SE3_ref = poses[token]
            found[token] = _prediction(token, boxes, global_SE3_ref, ego_SE3_ref, classes, path)
    missing = [token for token in poses if token not in found]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(poses)} samples, first {missing[0]!r}; "
            "is it of another split?"
        )
    return [found[token] for token in poses]


def read_samples(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yields (token, decoded boxes) of a results file, a sample at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the text is not JSON or has no `results`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no results file; check the path")
    with JsonStream(path) as stream:
        for key in stream.members("the document"):
            if key == "results":
                for token in stream.members("results"):
                    yield token, stream.value()
                return
            stream.value()
    raise ValueError(f"{path} has no field results; is it a nuScenes results file?")


def _prediction(
    token: str,
    boxes: Any,
    global_SE3_ref: SE3,
    ego_SE3_ref: SE3,
    classes: Sequence[str],
    path: str | Path,
) -> Prediction:
    if not isinstance(boxes, list):
        raise ValueError(f"{path}: sample {token!r} must be a list of boxes; validate the file")
    findings = FindingList(limit=1, token=token)
    for index, box in enumerate(boxes):
        if not check_box(box, token, f"[{index}]", findings):
            broken = next(item for item in findings.kept if item.severity == "error")
            raise ValueError(f"{path}: {broken}")

    def column(name: str, width: int) -> torch.Tensor:
        rows = [box[name] for box in boxes]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, width)

    ref_SE3_global = global_SE3_ref.inverse()
    R = ref_SE3_global.rotation @ matrix_from_quaternion(column("rotation", 4))
    velocity_mps = torch.linalg.solve(
        global_SE3_ref.rotation[:2, :2], column("velocity", 2).T.contiguous()
    ).T
    attributes = [box["attribute_name"] for box in boxes]
    return Prediction(
        token=token,
        boxes=Boxes3D.build(
            ref_SE3_global.apply(column("translation", 3)).float(),
            column("size", 3)[:, [1, 0, 2]].float(),
            yaw_from_matrix(R).float(),
            torch.tensor([classes.index(box["detection_name"]) for box in boxes]).long(),
            velocity_mps=velocity_mps.float(),
            attribute=torch.tensor(
                [NUSCENES_ATTRIBUTES.index(name) if name else -1 for name in attributes]
            ).long(),
        ),
        score=column("detection_score", 1)[:, 0].float(),
        global_SE3_ref=global_SE3_ref,
        ego_SE3_ref=ego_SE3_ref,
    )
