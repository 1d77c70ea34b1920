"""Turn a published checkpoint into weights of ours, or weights of ours into a published one.

python tools/import_checkpoint.py pillarnest_tiny.pth weights/pillarnest_tiny.safetensors
python tools/import_checkpoint.py --export weights/best.safetensors for_mmdetection3d.pth
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds; clear_errors answers it afterwards.
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b"\nstopped\n") and 130))

from perception3d.engine.command_line import clear_errors
from perception3d.engine.published import main

if __name__ == "__main__":
    with clear_errors():
        main(sys.argv[1:], prog="tools/import_checkpoint.py")
