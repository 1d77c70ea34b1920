"""PillarNeSt-Small (arXiv 2311.17770): configs/pillarnest_tiny.py with a larger backbone.

    python tools/train.py configs/pillarnest_small.py                     the town, on a laptop
    python tools/train.py configs/pillarnest_small.py --data nuscenes     real data, on GPUs

Published, on A100s (four samples a GPU): 61.7 mAP and 68.1 NDS on nuScenes val. Not trained
here. What configs/pillarnest_tiny.py says of the recipe holds here too: no pasted objects yet, so
that the phase of the last five epochs changes nothing, and the peak learning rate is open. The
authors start from ImageNet weights, which fill 34 % of this backbone.
"""

from __future__ import annotations

from configs.pillarnest_tiny import experiment as tiny
from perception3d.engine.config_file import variant_of

experiment = variant_of(tiny, scale="small")
