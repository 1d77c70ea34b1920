"""Draw the picture of CONVENTIONS.md: ``tools/draw_conventions.py [conventions.png]``."""

from __future__ import annotations

import sys
from pathlib import Path

from perception3d.viewer.canvas import write_image
from perception3d.viewer.conventions import draw_conventions

if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "conventions.png"
    path = sys.argv[1] if len(sys.argv) > 1 else default
    print(write_image(path, draw_conventions(), png_level=9))
