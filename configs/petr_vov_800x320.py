"""PETR on VoVNet-99, images of 800 x 320 (arXiv 2203.05625): one frame.

    python tools/train.py configs/petr_vov_800x320.py                    the town, on a laptop
    python tools/train.py configs/petr_vov_800x320.py --data nuscenes    real data, on GPUs

Published, on eight 2080Ti in 17 hours (one sample each): 37.8 mAP and 42.6 NDS on nuScenes val. Not
trained here; configs/petrv2_vov_800x320.py says what differs from the recipe, and how to begin in
the town. Velocities are guesses here: of what usually drives where.
"""

from __future__ import annotations

from configs.petrv2_vov_800x320 import experiment as petrv2
from perception3d.engine.config_file import variant_of

experiment = variant_of(petrv2, kind="petr_vov_800x320")
