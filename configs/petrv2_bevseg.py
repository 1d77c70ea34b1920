"""PETRv2 for maps from above (arXiv 2206.01256, section 3.4): drivable area, dividers, vehicles.

    python tools/train.py configs/petrv2_bevseg.py                    the town, on a laptop
    python tools/train.py configs/petrv2_bevseg.py --data nuscenes    real data, on GPUs
    python tools/test.py configs/petrv2_bevseg.py RUN --map-threshold 0.5

Published, on eight GPUs (one sample each, 50 epochs): IoU 0.856 of the drivable area, 0.490 of
dividers, 0.463 of vehicles on nuScenes val, with the threshold 0.43 for all. Not trained here. What
differs: the earlier frame at test is the 15th one back, as it most likely was for these scores
(their last configuration draws one); emergency vehicles are missing from the layer of vehicles.
Drivable area and dividers are nuScenes-devkit's masks pixel for pixel, as theirs. Images keep their
size (900 x 1600, padded to 928), so a pass needs a large GPU.

In the town, maps of 80 x 80 cells of a metre are drawn, each query starting from its part of what
was lifted. Begun with --start work_dirs/single/weights/last.safetensors (a run that
configs/petrv2_vov_800x320.py describes), 400 steps gave IoU 0.67, 0.47 and 0.28 (LOG.md).
"""

from __future__ import annotations

from configs.petrv2_vov_800x320 import experiment as petrv2
from perception3d.engine.config_file import variant_of

experiment = variant_of(petrv2, kind="petrv2_bevseg")
