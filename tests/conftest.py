"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def tiny_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a small generated data set: version v1.0-town, splits town_train, town_val."""
    from filelock import FileLock

    from tests.town_fixture import tiny_town as build

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all processes
    with FileLock(folder / "tiny_town.lock"):
        return build(folder)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a small data set: configs look at splits and class counts, not at sensor files."""
    from tests.datasets.nuscenes_fixture import make_dataset

    root = tmp_path_factory.mktemp("tables")
    make_dataset(root)
    return root


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder with real sensor data. Its licences keep it out of the repository; may be absent."""
    folder = Path(os.environ.get("PERCEPTION3D_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real data not at {folder}; set PERCEPTION3D_REALDATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; files with slow tests first.

    Files are handed to the processes in this order, and a long one at the end would be waited for.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
