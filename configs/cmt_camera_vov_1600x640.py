"""CMT-C, the published camera model (arXiv 2301.01283): VoVNet-99.

    python tools/train.py configs/cmt_camera_vov_1600x640.py             the town, on a laptop
    python tools/train.py configs/cmt_camera_vov_1600x640.py --data nuscenes --devices 8 \\
        --precision fp16 --backbone-weights fcos3d_vovnet_imgbackbone-remapped.pth

Published: 40.6 mAP, 46.0 NDS on nuScenes val, on eight GPUs, two samples each. Not trained here;
78.16 M weights. The authors' weights come in by tools/import_checkpoint.py.

Recipe: AdamW 1e-4 (weight decay 0.01), up to eight times that after 40 % of 20 epochs and down to
1e-8; clipped at 35; a pre-trained image backbone learns with a hundredth of the rate and five times
the decay, its neck with a tenth. Class-balanced frames, the scene turned (0.3925 rad) and scaled
(0.95 to 1.05), images scaled (0.94 to 1.25), cropped and mirrored, without GridMask; 900 learned
queries and as many to denoise. Nothing is pasted, and no phase ends the run.

What differs: boxes and cameras turn the same way when the scene does; with the libraries that it
names, the published code turned them apart, by up to 45 degrees. With --precision fp16 the decoder
computes in half precision too, not the attention core alone. ``--size town`` is that of
configs/cmt_fusion.py for cameras, which learn little from scratch in minutes (LOG.md).
"""

from __future__ import annotations

from configs.cmt_fusion import experiment as cmt
from perception3d.engine.config_file import variant_of

experiment = variant_of(cmt, sensors="camera", recipe="camera_vov_1600x640")
