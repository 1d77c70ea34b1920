"""Versions and splits of a nuScenes folder: what is there, and which scenes belong to a split.

Official splits are lists of scene names (``data/splits/nuscenes_*.txt``, generated from
``nuscenes/utils/splits.py`` of nuscenes-devkit 1.2.0). A version folder may add its own in
``splits.json`` ({split: [scene names]}), as devkit 1.2.0 reads it; official names win there and
here.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from perception3d import fast_json
from perception3d.structures.taxonomy import OFFICIAL_SPLITS


def find_versions(root: Path) -> list[str]:
    """Names of the version folders below ``root`` (they hold ``sample.json``), sorted.

    Raises:
        FileNotFoundError: ``root`` does not exist.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"data folder {root} does not exist; unpack nuScenes there (data/README.md says how), "
            "or name another folder"
        )
    return sorted(path.parent.name for path in root.glob("*/sample.json"))


def version_splits(root: Path, version: str) -> list[str]:
    """Names of the splits that a version offers: official ones by its name, then those of
    ``splits.json``.
    """
    official = [split for split, end in OFFICIAL_SPLITS.items() if version.endswith(end)]
    return official + [
        split for split in _custom_splits(root, version) if split not in OFFICIAL_SPLITS
    ]


def choose_version(root: Path, split: str, version: str | None = None) -> str:
    """The version folder that holds a split.

    Args:
        root: folder that holds the version folders.
        split: official or custom split.
        version: take this one; only checked then.

    Raises:
        FileNotFoundError: there is no data, or not that version.
        ValueError: no version, or more than one, has the split. Lists what was found.
    """
    versions = find_versions(root)
    offers = {name: version_splits(root, name) for name in versions}
    listed = "; ".join(
        f"{name} ({', '.join(splits) or 'no split'})" for name, splits in offers.items()
    )
    if not versions:
        raise FileNotFoundError(
            f"{root} holds no nuScenes version (a folder such as v1.0-mini with sample.json and "
            "12 more tables); unpack the metadata there"
        )
    if version is not None and version not in versions:
        raise FileNotFoundError(f"{root} has no version {version!r}; found {listed}")
    able = [name for name in versions if split in offers[name] and version in (None, name)]
    if len(able) == 1:
        return able[0]
    if able:
        raise ValueError(
            f"split {split!r} is in versions {', '.join(able)} of {root}; name one of them"
        )
    raise ValueError(
        f"no version in {root if version is None else root / version} has the split {split!r}; "
        f"found {listed}. A custom split goes into splits.json of the version folder"
    )


def scenes_of_split(root: Path, version: str, split: str) -> list[str]:
    """Scene names of a split.

    Raises:
        ValueError: the version does not offer the split.
    """
    if split in OFFICIAL_SPLITS:
        if not version.endswith(OFFICIAL_SPLITS[split]):
            raise ValueError(
                f"split {split!r} belongs to versions ending in {OFFICIAL_SPLITS[split]!r}; "
                f"{version!r} offers {', '.join(version_splits(root, version)) or 'none'}"
            )
        return official_scenes(split)
    custom = _custom_splits(root, version)
    if split not in custom:
        offered = ", ".join(version_splits(root, version)) or "none"
        raise ValueError(f"{root / version} has no split {split!r}; it offers {offered}")
    return custom[split]


def official_scenes(split: str) -> list[str]:
    """Scene names of an official split."""
    name = f"splits/nuscenes_{split}.txt"
    try:
        text = (resources.files("perception3d_data") / name).read_text()
    except ModuleNotFoundError:  # run from a checkout that is not installed
        text = (Path(__file__).parents[3] / "data" / name).read_text()
    return text.split()


def _custom_splits(root: Path, version: str) -> dict[str, list[str]]:
    path = root / version / "splits.json"
    if not path.is_file():
        return {}
    try:
        splits = fast_json.loads(path.read_bytes())
    except fast_json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    well_formed = isinstance(splits, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in splits.values()
    )
    if not well_formed:
        raise ValueError(f"{path} must hold {{split: [scene names]}}; found something else")
    return dict(splits)
