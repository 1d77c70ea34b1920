"""Make ``.venv`` in the repository with everything that the demo and the tests need.

Runs on a bare Debian or Ubuntu with Python 3.10 to 3.13 and nothing installed, so it uses the
standard library alone. Called by ``make``; running it again changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".perception3d-ready"
TORCH = "2.13.0"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
OPEN3D_LIBRARIES = "libusb-1.0-0 libegl1 libgl1 libgomp1 libvulkan1 mesa-vulkan-drivers"
INPUTS = ("pyproject.toml", "setup.py", "constraints.txt", "tools/bootstrap.py", "ops/csrc/*")
#: Kernels are compiled against the torch that is installed, so pip must not build in isolation.
BUILD_TOOLS = ("setuptools>=77", "ninja")

# nuscenes-devkit 1.2.0 asks for numpy < 2, which has no wheel for Python 3.13; it runs with numpy
# 2.3, so there it is installed alone, beside what it imports.
DEVKIT = "nuscenes-devkit==1.2.0"
DEVKIT_IMPORTS = (
    "cachetools", "descartes", "fire", "parameterized", "Pillow", "pycocotools", "pyquaternion",
    "scikit-learn", "Shapely~=2.0.3",
)  # fmt: skip


def main() -> int:
    """Create or refresh the environment; returns the exit status."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        found = ".".join(map(str, sys.version_info[:3]))
        return fail(
            f"Python 3.10 to 3.13 is needed; {sys.executable} is {found}. Use make PYTHON=..."
        )
    if importlib.util.find_spec("ensurepip") is None:
        minor = sys.version_info[1]
        return fail(
            "this Python cannot make virtual environments; install its venv package first:\n"
            f"  sudo apt-get install python3.{minor}-venv"
        )
    fingerprint = inputs_fingerprint()
    if STAMP.is_file() and STAMP.read_text() == fingerprint:
        return 0
    if not (VENV / "bin" / "python").exists():
        say(f"making {VENV.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    try:
        install_torch()
        install_project()
    except subprocess.CalledProcessError as error:
        return fail(f"installation stopped: {' '.join(map(str, error.cmd))}")
    STAMP.write_text(fingerprint)
    warn_of_missing_libraries()
    return 0


def inputs_fingerprint() -> str:
    """Changes when a file that decides about the environment changes, or the Python does."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update(os.environ.get("PERCEPTION3D_BUILD", "auto").encode())
    for path in sorted(path for pattern in INPUTS for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_torch() -> None:
    """Torch before the rest, so that no dependency chooses a build: CPU where there is no GPU."""
    if pip("show", "torch", quiet=True) == 0:
        return
    if shutil.which("nvidia-smi") or sys.platform != "linux":
        say(f"installing torch {TORCH}")
        pip("install", f"torch=={TORCH}", check=True)
        return
    say(f"installing torch {TORCH} for the CPU (no NVIDIA GPU found)")
    # A configured index or folder may already offer the CPU build; the official one is asked
    # otherwise.
    cpu_build = f"torch=={TORCH}+cpu"
    if pip("install", cpu_build, quiet=True) != 0:
        pip("install", cpu_build, "--extra-index-url", CPU_WHEELS, check=True)


def install_project() -> None:
    """The package in place, its optional parts, and the official evaluator."""
    say("installing perception3d and what it needs (a few minutes the first time)")
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    pip("install", *constraints, *BUILD_TOOLS, check=True)
    project = str(ROOT)
    own = ("--no-build-isolation", "-e")
    if sys.version_info >= (3, 13):
        pip("install", *constraints, *own, f"{project}[view,dev]", *DEVKIT_IMPORTS, check=True)
        pip("install", "--no-deps", DEVKIT, check=True)
    else:
        pip("install", *constraints, *own, f"{project}[eval,view,dev]", check=True)


def warn_of_missing_libraries() -> None:
    """Say which Debian packages Open3D lacks; everything but the 3-D scene works without them."""
    probe = [str(VENV / "bin" / "python"), "-c", "import open3d"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        say(
            "Open3D does not load here; pictures of the 3-D scene are left out. On Debian:\n"
            f"  sudo apt-get install {OPEN3D_LIBRARIES}"
        )


def pip(*arguments: str, check: bool = False, quiet: bool = False) -> int:
    """Run the environment's pip; returns its exit status."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    if arguments[0] == "install":
        command.insert(5, "--quiet")
    return subprocess.run(command, check=check, capture_output=quiet).returncode


def say(text: str) -> None:
    """One line of progress."""
    print(f"perception3d: {text}", flush=True)


def fail(text: str) -> int:
    """An error and its exit status."""
    print(f"perception3d: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
