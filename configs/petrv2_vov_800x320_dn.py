"""PETRv2 with denoising queries: configs/petrv2_vov_800x320.py, each box ten times with noise.

    python tools/train.py configs/petrv2_vov_800x320_dn.py                    the town, on a laptop
    python tools/train.py configs/petrv2_vov_800x320_dn.py --data nuscenes    real data, on GPUs

Published, on eight 2080Ti (one sample each): 41.9 mAP, 51.1 NDS, mAVE 0.381 on nuScenes val. Not
trained here. In the town it is configs/petrv2_vov_800x320.py: denoising makes learned queries
converge sooner, of which there are none.
"""

from __future__ import annotations

from configs.petrv2_vov_800x320 import experiment as petrv2
from perception3d.engine.config_file import variant_of

experiment = variant_of(petrv2, kind="petrv2_vov_800x320_dn")
