"""Which samples a split of a nuScenes version holds, read from its tables.

Rules: nuscenes-devkit 1.2.0, `utils/splits.py` and `eval/common/loaders.py`. Official splits win
over those of the version's splits.json; samples are in the order of the sample table.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from perception3d import fast_json
from perception3d.structures.taxonomy import OFFICIAL_SPLITS

_PIECE_BYTES = 1 << 17
_ROW_BORDER = re.compile(rb"\}(\s*,\s*)\{")


@dataclass(frozen=True)
class SplitSamples:
    """Samples of a split.

    Attributes:
        root, version, split: where they are from.
        official: the split is one of the devkit's (equal scores are then ordered by the file, else
            by the sample table).
        tokens: (S) sample tokens.
        time_us: (S) their times.
        scene: (S) scene token of each.
        scene_names: name by scene token.
        log_tokens: log token by scene token.
        descriptions: text about each scene by its token.
    """

    root: Path
    version: str
    split: str
    official: bool
    tokens: tuple[str, ...]
    time_us: tuple[int, ...]
    scene: tuple[str, ...]
    scene_names: dict[str, str]
    log_tokens: dict[str, str]
    descriptions: dict[str, str]

    @property
    def digest(self) -> str:
        """Tells this split from others: of the tokens, in their order."""
        return hashlib.sha256(" ".join(self.tokens).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """The version folder."""
        return self.root / self.version


def samples_of_split(root: str | Path, version: str, split: str) -> SplitSamples:
    """Reads the tables scene and sample.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: the version has no such split, or it holds no sample.
    """
    root = Path(root)
    folder = root / version
    names = set(scene_names(folder, split))
    try:
        return _samples_of(root, version, split, names)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: scene.json or sample.json has a row without {error}; unpack this version "
            "again"
        ) from None


def _samples_of(root: Path, version: str, split: str, names: set[str]) -> SplitSamples:
    folder = root / version
    scenes = [row for rows in table_rows(folder, "scene") for row in rows if row["name"] in names]
    wanted = {row["token"] for row in scenes}
    samples = [
        row for rows in table_rows(folder, "sample") for row in rows if row["scene_token"] in wanted
    ]
    if not samples:
        raise ValueError(
            f"split {split!r} holds no sample of {version}; choose another split or version"
        )
    if split in OFFICIAL_SPLITS and not version.endswith(OFFICIAL_SPLITS[split]):
        raise ValueError(
            f"split {split!r} is for versions whose names end in {OFFICIAL_SPLITS[split]!r}, not "
            f"{version!r}; name its scenes in a split of your own in splits.json"
        )
    return SplitSamples(
        root=root,
        version=version,
        split=split,
        official=split in OFFICIAL_SPLITS,
        tokens=tuple(row["token"] for row in samples),
        time_us=tuple(row["timestamp"] for row in samples),
        scene=tuple(row["scene_token"] for row in samples),
        scene_names={row["token"]: row["name"] for row in scenes},
        log_tokens={row["token"]: row.get("log_token", "") for row in scenes},
        descriptions={row["token"]: str(row.get("description", "")) for row in scenes},
    )


def find_version(root: str | Path, split: str) -> str:
    """The one version folder below `root` that offers a split.

    Raises:
        FileNotFoundError: there is no version folder.
        ValueError: none offers it, or several do; lists what is there.
    """
    root = Path(root)
    versions = sorted(path.parent.name for path in root.glob("*/sample.json"))
    if not versions:
        raise FileNotFoundError(
            f"{root} holds no nuScenes version (a folder such as v1.0-trainval with sample.json); "
            "check the data folder"
        )
    able = []
    for version in versions:
        with contextlib.suppress(ValueError):
            scene_names(root / version, split)
            if version.endswith(OFFICIAL_SPLITS.get(split, "")):
                able.append(version)
    if len(able) != 1:
        raise ValueError(
            f"{'several versions offer' if able else 'no version offers'} the split {split!r}: "
            f"{', '.join(able or versions)} in {root}; name version and split that belong together"
        )
    return able[0]


def scene_names(folder: Path, split: str) -> list[str]:
    """Names of the scenes of a split.

    Raises:
        ValueError: neither an official split nor one of splits.json.
    """
    if split in OFFICIAL_SPLITS:
        return _official_scenes(split)
    path = folder / "splits.json"
    if not path.is_file():
        raise ValueError(
            f"Custom split {split} requested, but there is no {path}; write it, or use one of "
            f"{', '.join(OFFICIAL_SPLITS)}"
        )
    try:
        splits = fast_json.loads(path.read_bytes())
    except fast_json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(splits, dict) or split not in splits:
        offered = ", ".join(splits) if isinstance(splits, dict) else "nothing"
        raise ValueError(
            f"Custom split {split} requested, but not found in {path}, which offers {offered}; "
            "use one of its splits, or a predefined one"
        )
    names = splits[split]
    if not isinstance(names, list):
        raise ValueError(f"{path}: split {split} must be a list of scene names; found {names!r}")
    return names


def table_rows(folder: Path, name: str) -> Iterator[list[dict[str, Any]]]:
    """Rows of one table in the order of the file, some thousand at a time.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is no JSON list of rows.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no nuScenes table {path}; check the data folder and version")
    pieces = _pieces(path)
    try:
        for piece in pieces:
            rows = fast_json.loads(piece)
            if not isinstance(rows, list):
                raise ValueError(f"{path} must hold a list of rows; unpack it again")
            yield rows
    except fast_json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); unpack it again") from None


def _pieces(path: Path) -> Iterator[bytes]:
    """The text, cut between rows so that each piece is a list of its own.

    A row ends where "}" is followed by a comma and "{"; rows of nuScenes tables are flat. Where
    they are not, no piece parses, and the table is refused rather than misread.
    """
    rest, opened = b"", False
    with path.open("rb") as file:
        while block := file.read(_PIECE_BYTES):
            rest += block
            borders = list(_ROW_BORDER.finditer(rest, max(0, len(rest) - (1 << 12))))
            if not borders:
                continue
            last = borders[-1]
            yield (b"[" if opened else b"") + rest[: last.start(1)] + b"]"
            rest, opened = rest[last.end(1) :], True
    yield (b"[" if opened else b"") + rest


def _official_scenes(split: str) -> list[str]:
    name = f"splits/nuscenes_{split}.txt"
    try:
        text = (resources.files("perception3d_data") / name).read_text()
    except ModuleNotFoundError:  # run from a checkout that is not installed
        text = (Path(__file__).parents[2] / "data" / name).read_text()
    return text.split()
