"""PETRv2 on a running drive: features of earlier camera frames are kept, not computed again.

The backbone sees V images a step instead of 2 V, and the answer is that of the forward pass over
2 V views. Frame choice at test time follows megvii-research/PETR
(:mod:`perception3d.geometry.temporal`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perception3d.datasets.nuscenes.earlier import EARLIER
from perception3d.fusion.kept_code import KeptCode
from perception3d.fusion.petr_sine import padded_cells
from perception3d.fusion.petr_tokens import RigCode
from perception3d.geometry.temporal import (
    TEST_SWEEP,
    camera_ages_s,
    chosen_sweep,
    frame_gap_s,
    repeated_times_ns,
    shift_reference,
)
from perception3d.models.petr import PETR, PETROutputs
from perception3d.structures import Batch, CameraRig, ImageFeatures


@dataclass(frozen=True)
class CameraFrame:
    """One moment of all cameras, as later steps need it.

    Attributes:
        features: (1, V, C, h, w) projected.
        maps: (1, V, channels, h, w) before that, for a model that lifts them; else None.
        rig: (1, V, ...) in the ``ref`` of that moment.
        global_T_ref: (4, 4) float64 pose of that ``ref``.
        time_ns: its key time.
    """

    features: Tensor
    maps: Tensor | None
    rig: CameraRig
    global_T_ref: Tensor
    time_ns: int


class FrameRing:
    """The newest camera frames of one drive.

    Args:
        wanted: position of the frame that serves, newest earlier one = 0; published 14: the 15th
            camera frame back, 1.25 s at 12 Hz. A stream at another rate needs another number.
        max_gap_s: a longer break between frames empties the ring, as does another drive, or a time
            that does not rise.
    """

    def __init__(self, *, wanted: int = TEST_SWEEP, max_gap_s: float = 0.75) -> None:
        if wanted < 0 or not max_gap_s > 0:
            raise ValueError(
                f"wanted must be >= 0 and max_gap_s > 0; found {wanted} and {max_gap_s}"
            )
        self.wanted, self.max_gap_s = wanted, max_gap_s
        self._frames: deque[CameraFrame] = deque(maxlen=wanted + 1)
        self._log: str | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def reset(self) -> None:
        """Forget all frames."""
        self._frames.clear()
        self._log = None

    def earlier(self, log: str, time_ns: int) -> CameraFrame | None:
        """The frame that serves a new one at ``time_ns`` of drive ``log``; None for a first one.

        Frames that the new one does not continue are forgotten.
        """
        if self._frames:
            gap_s = (time_ns - self._frames[-1].time_ns) * 1e-9
            if log != self._log or not 0 < gap_s <= self.max_gap_s:
                self.reset()
        index = chosen_sweep(len(self._frames), self.wanted)
        return None if index is None else self._frames[-1 - index]

    def push(self, log: str, frame: CameraFrame) -> None:
        """Keep a frame; the oldest one leaves where the ring is full."""
        if self._log not in (None, log):
            self.reset()
        self._log = log
        self._frames.append(frame)


class PETRStream:
    """Runs a two-frame model over the camera frames of a drive, one after another.

    Args:
        model: in eval mode.
        ring: where frames are kept; None = the published rule.

    Raises:
        ValueError: the model takes one frame.
    """

    def __init__(self, model: PETR, *, ring: FrameRing | None = None) -> None:
        if model.frames != 2:
            raise ValueError(f"a stream needs a model of 2 frames; found {model.frames}")
        self.model = model
        self.ring = FrameRing() if ring is None else ring
        self._rays = KeptCode()

    def reset(self) -> None:
        """Forget all frames: needed when the model's weights change."""
        self.ring.reset()

    @torch.no_grad()
    def step(self, batch: Batch, log: str) -> PETROutputs:
        """Outputs for one camera frame, the last layer's maps only.

        Args:
            batch: one sample with the V current cameras.
            log: name of the drive or scene.

        Raises:
            ValueError: more than one sample, no cameras, or a model in training mode.
        """
        model = self.model
        if batch.batch_size != 1 or model.training:
            raise ValueError(
                "a stream takes one sample a step and a model in eval mode; found "
                f"{batch.batch_size} samples, training {model.training}"
            )
        images, rig = model.cameras(batch)
        maps, image_hw = model.image(images)
        features = model.tokens.features(maps.data)
        pose = batch.global_SE3_ref[0].matrix().to(features.device)
        kept = None if model.lift is None else maps.data
        now = CameraFrame(features, kept, rig, pose, int(batch.time_ns[0]))
        then = self.ring.earlier(log, now.time_ns)
        earlier = self._aligned(then, now)
        valid_hw = None if image_hw == tuple(images.shape[-2:]) else rig.image_hw
        code = self._code(now, earlier, valid_hw, image_hw)
        gap_s = None
        if model.head is not None:
            times = torch.cat((rig.time_ns, earlier.time_ns), dim=1)
            gap_s = frame_gap_s(camera_ages_s(batch.time_ns, times))
        before = now if then is None else then
        both = torch.cat((now.features, before.features), dim=1)
        lifted = None
        if model.lift is not None and now.maps is not None and before.maps is not None:
            pair = ImageFeatures(torch.cat((now.maps, before.maps), dim=1), maps.stride)
            lifted = model.lift(
                pair, rig.beside(earlier, EARLIER), (images.shape[-2], images.shape[-1])
            )
        self.ring.push(log, now)
        return model.answer(both, code, batch, gap_s=gap_s, lifted=lifted, every_map=False)

    def _aligned(self, then: CameraFrame | None, now: CameraFrame) -> CameraRig:
        """Cameras of the earlier frame in the current ``ref``; a first frame repeats itself."""
        if then is None:
            return replace(now.rig, time_ns=repeated_times_ns(now.rig.time_ns))
        moved = shift_reference(then.rig.cam_SE3_ref, then.global_T_ref, now.global_T_ref)
        return replace(then.rig, cam_SE3_ref=moved)

    def _code(
        self,
        now: CameraFrame,
        earlier: CameraRig,
        valid_hw: Tensor | None,
        image_hw: tuple[int, int],
    ) -> RigCode:
        """Codes of all 2 V views; those that cannot have changed are taken from the last step."""
        tokens = self.model.tokens
        h, w = now.features.shape[-2:]
        to_image = now.rig.ref_to_image()
        current = self._rays(
            tokens.rays,
            (to_image, h, w, *image_hw),
            lambda: tokens.rays(to_image, (h, w), image_hw),
        )
        rays = torch.cat((current, tokens.rays(earlier.ref_to_image(), (h, w), image_hw)), dim=1)
        padded = None
        if valid_hw is not None:
            both = torch.cat((valid_hw, earlier.image_hw), dim=1)
            padded = padded_cells(both, image_hw, (h, w))
        views = tokens.view_code((1, rays.shape[1], h, w), padded)
        return RigCode(rays=rays, views=views, padded=padded)
