"""CMT, the published fusion model (arXiv 2301.01283): VoVNet-99 and voxels of 0.075 m.

    python tools/train.py configs/cmt_voxel0075_vov_1600x640.py          the town, on a laptop
    python tools/train.py configs/cmt_voxel0075_vov_1600x640.py --data nuscenes --devices 8 \\
        --precision fp16 --backbone-weights fcos3d_vovnet_imgbackbone-remapped.pth

Published: 70.3 mAP, 72.9 NDS on nuScenes val, on eight A100s of 80 GB, two samples each; an early
version took 45 h. Not trained here; 86.61 M weights. The authors' weights come in by
tools/import_checkpoint.py and are scored by tools/test.py with this config and ``--data nuscenes``.

Recipe: AdamW 1e-4 (weight decay 0.01), up to eight times that after 40 % of 20 epochs and down to
1e-8; clipped at 35; a pre-trained image backbone learns with a hundredth of the rate and five times
the decay, its neck with a tenth. Class-balanced frames, ten past sweeps, images and points hidden
in a quarter of the frames each, then the scene is turned (0.785 rad), scaled, shifted and mirrored,
points shuffled, images scaled (0.94 to 1.25), cropped, mirrored and blotted (GridMask); 900 learned
queries and as many to denoise.

What differs: objects of other frames are not pasted yet (``PASTE`` in configs/cmt_fusion.py is
empty), so the last five epochs "without", a phase of their own here too, are like those before; the
authors put that at 2 mAP. With --precision fp16, SECOND and the decoder compute in half precision
too, not the attention core alone. Loss explodes near the peak of the rate for some: lower --lr, and
scale it with the batch. ``--size town`` is that of configs/cmt_fusion.py with voxels.
"""

from __future__ import annotations

from configs.cmt_fusion import experiment as cmt
from perception3d.engine.config_file import variant_of

experiment = variant_of(
    cmt, sensors="fusion", lidar_encoder="voxels", recipe="voxel0075_vov_1600x640"
)
