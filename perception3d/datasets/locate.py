"""Which data to use, when nobody says more than "auto"."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from perception3d import fast_json
from perception3d.datasets.nuscenes.splits import choose_version, find_versions, version_splits

log = logging.getLogger(__name__)

#: Pairs of splits to train and validate on, best first.
_PAIRS = (("train", "val"), ("mini_train", "mini_val"))


@dataclass(frozen=True)
class DataRoot:
    """A nuScenes-format data set on disk.

    Attributes:
        root: folder with the version folder.
        version: version folder that holds ``val_split``.
        train_split, val_split: what to train and validate on. With a ``val_split`` that was asked
            for, the data may hold no ``train_split``; whoever reads that one then says so.
        kind: "nuscenes", or "town" for a generated one.
    """

    root: Path
    version: str
    train_split: str
    val_split: str
    kind: str


def locate(
    data: str | Path = "auto", *, val_split: str | None = None, data_folder: Path = Path("data")
) -> DataRoot:
    """Find a data set, or make the generated one.

    Args:
        data: "auto" takes ``data_folder/nuscenes`` when it holds a version, else the town;
            "nuscenes" and "town" insist on one; anything else is the folder of a data set.
        val_split: validate (or predict) on this one; None takes the partner of the split to train
            on. With it, data without anything to train on will do, such as the test set alone.
        data_folder: where both are looked for. The town is made there when it is missing, with its
            demo settings.

    Returns:
        The data set with its largest version that has a pair of splits. One line in the log says
        which.

    Raises:
        FileNotFoundError: the folder does not exist or holds no version.
        ValueError: no version has a split to train on and one to validate on; none, or more than
            one, has ``val_split``.
    """
    real, town = data_folder / "nuscenes", data_folder / "town"
    if data == "auto":
        data = "nuscenes" if real.is_dir() and find_versions(real) else "town"
        reason = "found" if data == "nuscenes" else f"no nuScenes in {real}"
    else:
        reason = "asked for"
    if data == "town":
        _make_town_if_missing(town)
    folder = {"nuscenes": real, "town": town}.get(str(data), Path(data))
    found = describe(folder, val_split=val_split)
    use = f"validate on {found.val_split}"
    if val_split is None:
        use = f"train on {found.train_split}, {use}"
    log.info("data: %s (%s, %s; %s)", found.root, found.version, reason, use)
    return found


def describe(root: Path, *, val_split: str | None = None) -> DataRoot:
    """Version and splits of a data set: official ones first, then ``*train`` and ``*val`` of
    splits.json; ``val_split`` instead of the latter, if given.

    Raises:
        FileNotFoundError, ValueError: as :func:`locate` says.
    """
    versions = find_versions(root)
    if not versions:
        raise FileNotFoundError(
            f"{root} holds no nuScenes version (a folder such as v1.0-mini with its tables); "
            "unpack one there, or take the generated town"
        )
    offers = {version: version_splits(root, version) for version in versions}
    pair = _find_pair(offers)
    if val_split is not None:
        version = choose_version(root, val_split)
        train = pair[1] if pair is not None else _PAIRS[0][0]
        return DataRoot(root, version, train, val_split, _kind(version))
    if pair is not None:
        return DataRoot(root, *pair, _kind(pair[0]))
    listed = "; ".join(f"{name}: {', '.join(splits) or 'none'}" for name, splits in offers.items())
    raise ValueError(
        f"no version in {root} has a split to train on and one to validate on (found {listed}); "
        "name them in splits.json of the version folder as <name>_train and <name>_val"
    )


def _find_pair(offers: dict[str, list[str]]) -> tuple[str, str, str] | None:
    """Version, split to train on and split to validate on, from the splits of each version."""
    for train, val in _PAIRS:
        for version, splits in offers.items():
            if train in splits and val in splits:
                return version, train, val
    for version, splits in offers.items():
        stems = [split.removesuffix("train") for split in splits if split.endswith("train")]
        for stem in stems:
            if f"{stem}val" in splits:
                return version, f"{stem}train", f"{stem}val"
    return None


def _kind(version: str) -> str:
    return "town" if version.endswith("town") else "nuscenes"


def _make_town_if_missing(root: Path) -> None:
    """Generate the demo town, or complete one that was interrupted; any complete town will do."""
    stamp = root / "town.json"
    begun = stamp.is_file() and not fast_json.loads(stamp.read_bytes()).get("complete")
    if root.is_dir() and find_versions(root) and not begun:
        return
    # Only here: the generator needs numba, which takes its time to import.
    from perception3d.datasets.town.build import build_town
    from perception3d.datasets.town.settings import TownSettings

    state = "is unfinished" if begun else "does not exist yet"
    log.info("data: %s %s; generating the town (about two minutes)", root, state)
    build_town(root, TownSettings())
