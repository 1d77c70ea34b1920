"""CMT, the smaller published fusion model (arXiv 2301.01283): ResNet-50 and voxels of 0.1 m.

    python tools/train.py configs/cmt_voxel0100_r50_800x320.py           the town, on a laptop
    python tools/train.py configs/cmt_voxel0100_r50_800x320.py --data nuscenes --devices 8 \\
        --precision fp16 --backbone-weights nuim_r50.pth
    python tools/test.py configs/cmt_voxel0100_r50_800x320.py WEIGHTS --data nuscenes \\
        --published-grid                                        the authors' weights, imported

Published: 67.9 mAP, 70.8 NDS on nuScenes val, on eight GPUs, four samples each (two fit an RTX 2080
Ti); an early version without class balance took 14 h. Not trained here; 40.92 M weights.

The published grid is too small for its range: 1,080 cells of 0.1 m reach from -54 to 54 m, but the
sparse convolutions and the head count 1,024. So LiDAR ends at 48.4 m in x and y, and its 128 x 128
map of 0.8 m cells is placed as if they were 0.84375 m wide, up to 5.6 m off. The released weights
learned that, and need ``--published-grid``. Without it, for new trainings, all 1,080 cells count:
135 x 135, placed rightly (backbone and neck see one more empty row and column, for 135 is odd).

Recipe: as of configs/cmt_voxel0075_vov_1600x640.py, with AdamW 1.4e-4, up to six times that, images
scaled by 0.47 to 0.625, and the activations of the image backbone computed twice to save memory.
What differs from it is said there; for 16 samples a step instead of 32, users report that half the
rate serves.
"""

from __future__ import annotations

from configs.cmt_fusion import experiment as cmt
from perception3d.engine.config_file import variant_of

experiment = variant_of(
    cmt, sensors="fusion", lidar_encoder="voxels", recipe="voxel0100_r50_800x320"
)
