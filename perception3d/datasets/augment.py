"""Random changes of scene and images that keep points, boxes, cameras and pixels in agreement."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from perception3d.datasets.points import ROW, Array, Floats, cloud_of, rows_of
from perception3d.geometry import apply_transform
from perception3d.structures import Boxes3D, CameraRig, Frame, MapRaster

#: Images that shrink below this factor are averaged over areas instead of interpolated.
AREA_BELOW = 0.45


@dataclass(frozen=True)
class SceneChange:
    """One change of a scene about the origin of ``ref``: new = mirror(scale * turn(old) + shift).

    Attributes:
        yaw_rad: of the turn.
        scale: factor.
        shift_m: along x, y, z.
        flip_x, flip_y: mirror x -> -x, y -> -y.
    """

    yaw_rad: float = 0.0
    scale: float = 1.0
    shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flip_x: bool = False
    flip_y: bool = False

    def unmirrored(self) -> Tensor:
        """(4, 4) float64 from old to new places, without the mirror."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        T = torch.eye(4, dtype=torch.float64)
        T[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        T[:3, :3] *= self.scale
        T[:3, 3] = torch.tensor(self.shift_m, dtype=torch.float64)
        return T

    def matrix(self) -> Tensor:
        """(4, 4) float64 ``new_T_ref`` from old to new places."""
        signs = [-1.0 if flip else 1.0 for flip in (self.flip_x, self.flip_y)]
        return torch.tensor([*signs, 1.0, 1.0], dtype=torch.float64)[:, None] * self.unmirrored()


@dataclass(frozen=True)
class GlobalAugment:
    """Turn, scale, shift and mirror the whole scene about the origin of ``ref``, in this order.

    Points, boxes (velocities turn, scale and flip too), the map and ``cam_SE3_ref`` follow, so what
    a camera sees of a point does not change: ``ref_to_image @ point`` is invariant. The two poses
    of the frame do not follow (a mirrored frame has no pose): augmented frames are for training.

    The defaults are those of CMT's fusion and LiDAR configurations (junjie18/CMT,
    ``projects/configs``).

    Attributes:
        rotation_rad: drawn from (-rotation_rad, rotation_rad).
        scale: (low, high).
        translation_std_m: normal deviation along x, y, z.
        flip_x_probability: of x -> -x.
        flip_y_probability: of y -> -y.
    """

    rotation_rad: float = 0.785
    scale: tuple[float, float] = (0.9, 1.1)
    translation_std_m: tuple[float, float, float] = (0.5, 0.5, 0.5)
    flip_x_probability: float = 0.5
    flip_y_probability: float = 0.5

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame after a random change."""
        return change_scene(frame, self.draw(rng))

    def draw(self, rng: np.random.Generator) -> SceneChange:
        """A random change."""
        yaw = float(rng.uniform(-self.rotation_rad, self.rotation_rad))
        scale = float(rng.uniform(*self.scale))
        x, y, z = (float(v) for v in rng.normal(0.0, self.translation_std_m))
        flip_x, flip_y = rng.random(2) < (self.flip_x_probability, self.flip_y_probability)
        return SceneChange(yaw, scale, (x, y, z), bool(flip_x), bool(flip_y))


def transform_scene(
    frame: Frame, yaw_rad: float, scale: float, shift_m: np.ndarray, flip_x: bool, flip_y: bool
) -> Frame:
    """:func:`change_scene` by plain numbers."""
    x, y, z = (float(v) for v in shift_m)
    return change_scene(frame, SceneChange(yaw_rad, scale, (x, y, z), flip_x, flip_y))


def change_scene(frame: Frame, change: SceneChange) -> Frame:
    """The frame after a change; a map that is there already is resampled (:func:`_moved_map`)."""
    new_T_ref = change.matrix()
    points, rig, boxes = frame.points, frame.rig, frame.boxes
    if points is not None:
        points = cloud_of(_moved_rows(rows_of(points), new_T_ref.numpy()), points.ring)
    if rig is not None:
        rig = replace(rig, cam_SE3_ref=rig.cam_SE3_ref @ torch.linalg.inv(new_T_ref))
    if boxes is not None:
        boxes = _moved_boxes(boxes, new_T_ref, change.scale)
    return replace(
        frame,
        points=points,
        rig=rig,
        boxes=boxes,
        map=None if frame.map is None else _moved_map(frame.map, new_T_ref),
    )


def _moved_rows(rows: Floats, T: Array) -> Floats:
    """Rows x, y, z, intensity, age after the change; one product over whole rows is fastest."""
    M = np.eye(ROW, dtype=np.float32)
    M[:3, :3] = T[:3, :3].T
    moved = rows @ M
    for axis in range(3):
        moved[:, axis] += np.float32(T[axis, 3])
    return moved


def _moved_boxes(boxes: Boxes3D, new_T_ref: Tensor, scale: float) -> Boxes3D:
    A = new_T_ref[:2, :2].to(boxes.yaw_rad)
    # The heading as a vector follows turns and mirrors alike.
    heading = torch.stack((torch.cos(boxes.yaw_rad), torch.sin(boxes.yaw_rad)), dim=-1) @ A.T
    return replace(
        boxes,
        center_m=apply_transform(new_T_ref, boxes.center_m),
        size_lwh_m=boxes.size_lwh_m * scale,
        yaw_rad=torch.atan2(heading[:, 1], heading[:, 0]),
        velocity_mps=boxes.velocity_mps @ A.T,
    )


def _moved_map(raster: MapRaster, new_T_ref: Tensor) -> MapRaster:
    """Every cell takes what lay under its centre; from outside the old grid comes no class.

    Where the shapes are at hand, ``SceneWithMap`` draws them anew instead: exact, up to the border.
    """
    inverse = torch.linalg.inv(new_T_ref)
    centers = raster.grid.centers_m().double().flatten(0, 1)
    # The raster is a ground plan: height plays no part.
    before = centers @ inverse[:2, :2].T + inverse[:2, 3]
    row_column, inside = raster.grid.index(before.float())
    mask = raster.mask[:, row_column[:, 0], row_column[:, 1]] & inside
    return replace(raster, mask=mask.view_as(raster.mask))


@dataclass(frozen=True)
class ImageAugment:
    """One random resize, crop and mirror for all views of a frame, down to one output size.

    The image is scaled, then cropped to the output: aligned with the lower edge (sky goes first),
    at a random place across (training) or in the middle (test). Where the scaled image is smaller
    than the output, black is added above or to the right. ``image_aug`` follows. Pixels are taken
    as areas: an image spans [0, width] x [0, height], so scaling is a plain factor without
    half-pixel terms, and a mirror is u -> width - u, as published; positions of the content agree
    with the matrix to the rounding of pixels.

    Source: ``ResizeCropFlipImage`` of PETR (megvii-research/PETR), used by CMT: the published
    ranges are resize (0.94, 1.25) for 640 x 1600 output of 900 x 1600 images, (0.47, 0.625) for 320
    x 800. Unlike there, the scale in the matrix is that of the image's whole pixels in each
    direction.

    Cameras whose images differ in size (Argoverse 2: one of seven stands upright) come to one size
    with ``relative`` and ``horizon``: each is scaled to fill the output, times one factor for all,
    and cropped about its own horizon; aligned with the lower edge, the upright camera would show
    nothing but road.

    Attributes:
        output_hw: size of what comes out.
        resize: (low, high) factors on the image as it comes in; None: the smallest that fills the
            output.
        flip_probability: of mirroring left and right.
        random_crop: draw the horizontal place of the crop; else the middle.
        relative: factors count from the smallest that fills the output, camera by camera.
        horizon: share of the output's height at which the row of each camera's principal point
            comes to lie, as far as the image reaches; None: the crop ends at the lower edge. 0.36
            is where the published crop of 640 rows puts it on nuScenes' front camera.
    """

    output_hw: tuple[int, int]
    resize: tuple[float, float] | None = (0.94, 1.25)
    flip_probability: float = 0.5
    random_crop: bool = True
    relative: bool = False
    horizon: float | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None and not 0 <= self.horizon <= 1:
            raise ValueError(
                f"ImageAugment.horizon is a share of the height, 0 to 1; found {self.horizon}"
            )

    @classmethod
    def test(cls, output_hw: tuple[int, int], *, horizon: float | None = None) -> ImageAugment:
        """Deterministic: factor max(H / height, W / width), crop in the middle, no mirror."""
        return cls(output_hw, resize=None, flip_probability=0.0, random_crop=False, horizon=horizon)

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """The frame after a random change; a frame without cameras passes unchanged."""
        # Drawn before looking at the frame, so that the stream does not depend on what is loaded.
        factor = None if self.resize is None else float(rng.uniform(*self.resize))
        place, mirror = float(rng.random()), bool(rng.random() < self.flip_probability)
        rig = frame.rig
        if rig is None:
            return frame
        # Rows of the principal points in the images as they are.
        horizons = (rig.image_aug @ rig.K)[:, 1, 2].tolist()
        windows = [
            _Window.choose(
                (height, width),
                self.output_hw,
                factor,
                place if self.random_crop else 0.5,
                mirror,
                relative=self.relative,
                rows=None if self.horizon is None else (row, self.horizon * self.output_hw[0]),
            )
            for (height, width), row in zip(rig.image_hw.tolist(), horizons)
        ]
        images = frame.images
        if images is not None:
            images = tuple(window.cut(image) for window, image in zip(windows, images))
        return replace(frame, images=images, rig=_seen_through(rig, windows, self.output_hw))


@dataclass(frozen=True)
class _Window:
    """Scaled size, the crop's upper left corner in it, output size and mirror of one view."""

    source_hw: tuple[int, int]
    scaled_hw: tuple[int, int]
    top: int
    left: int
    output_hw: tuple[int, int]
    mirror: bool

    @classmethod
    def choose(
        cls,
        source_hw: tuple[int, int],
        output_hw: tuple[int, int],
        factor: float | None,
        place: float,
        mirror: bool,
        *,
        relative: bool = False,
        rows: tuple[float, float] | None = None,
    ) -> _Window:
        """``rows``: a row of the source and the one of the output where it should come to lie."""
        if factor is None or relative:
            fill = max(output_hw[0] / source_hw[0], output_hw[1] / source_hw[1])
            factor = fill * (1.0 if factor is None else factor)
        # Rounded down as published; the small term keeps 0.5 * 900 at 450.
        scaled = (int(source_hw[0] * factor + 1e-6), int(source_hw[1] * factor + 1e-6))
        left = int(place * max(0, scaled[1] - output_hw[1]))
        top = scaled[0] - output_hw[0]
        if rows is not None and top > 0:
            top = min(max(round(rows[0] * scaled[0] / source_hw[0] - rows[1]), 0), top)
        return cls(source_hw, scaled, top, left, output_hw, mirror)

    def matrix(self) -> Tensor:
        """(3, 3) float64 from pixels before to pixels after."""
        sy, sx = (s / h for s, h in zip(self.scaled_hw, self.source_hw))
        A = torch.tensor(
            [[sx, 0.0, -self.left], [0.0, sy, -self.top], [0.0, 0.0, 1.0]], dtype=torch.float64
        )
        if self.mirror:
            width = float(self.output_hw[1])
            A = torch.tensor([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double() @ A
        return A

    def cut(self, image: Tensor) -> Tensor:
        """The view's image (H, W, 3) uint8 after the change."""
        pixels = image.numpy()
        height, width = self.output_hw
        if self.scaled_hw != self.source_hw:
            # Averaging over areas takes ten times as long as interpolation, and down to half of the
            # size the two differ by 0.5 of 255 levels in the mean (real frame); below, it is
            # needed.
            shrink = self.scaled_hw[0] < AREA_BELOW * self.source_hw[0]
            size = (self.scaled_hw[1], self.scaled_hw[0])
            pixels = cv2.resize(
                pixels, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
            )
        pixels = pixels[max(self.top, 0) : self.top + height, self.left : self.left + width]
        if pixels.shape[:2] != self.output_hw:
            missing = (height - pixels.shape[0], width - pixels.shape[1])
            pixels = cv2.copyMakeBorder(
                pixels, missing[0], 0, 0, missing[1], cv2.BORDER_CONSTANT, value=(0, 0, 0)
            )
        pixels = cv2.flip(pixels, 1) if self.mirror else np.ascontiguousarray(pixels)
        return torch.from_numpy(pixels)


def _seen_through(rig: CameraRig, windows: list[_Window], output_hw: tuple[int, int]) -> CameraRig:
    matrices = torch.stack([window.matrix() for window in windows])
    return replace(
        rig,
        image_aug=matrices @ rig.image_aug,
        image_hw=torch.tensor([output_hw] * len(windows), dtype=torch.int64),
    )
