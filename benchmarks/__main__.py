"""The measurements without the command line's packages: ``python -m benchmarks cpu|cuda``."""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.ops import PARTS, run  # the wait policy is read when torch is loaded

device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
stamp = time.strftime("%Y%m%d_%H%M%S")
out = Path("work_dirs") / "bench" / f"ops_{device}_{stamp}.json"
run(parts=PARTS, frame=None, threads=1, runs=7, device=device, out=out)
