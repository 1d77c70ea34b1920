"""PETRv2 on ResNet-50, images of 704 x 256, as on the published branch "flash".

    python tools/train.py configs/petrv2_r50_704x256.py                    the town, on a laptop
    python tools/train.py configs/petrv2_r50_704x256.py --data nuscenes    real data, on GPUs

Published, on eight GPUs in 60 hours (two samples each, 60 epochs): 39.3 mAP, 49.5 NDS, mAVE 0.361
on nuScenes val, from a ResNet-50 that had learned nuImages (hand it to --backbone-weights). Not
trained here. What differs: its matching also looks at velocities, ours does not; its attention
ignores padding, of which there is none at this size. For the rest see
configs/petrv2_vov_800x320.py.
"""

from __future__ import annotations

from configs.petrv2_vov_800x320 import experiment as petrv2
from perception3d.engine.config_file import variant_of

experiment = variant_of(petrv2, kind="petrv2_r50_704x256")
