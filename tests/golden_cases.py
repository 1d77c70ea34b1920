"""Reader of golden cases: figures that published implementations returned.

A case is ``<case>.json`` (shapes of weights, inputs, outputs) and ``<case>.npz`` (stored arrays).
Weights and most inputs follow from their names by a seeded generator, so they are not stored.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Outputs with more elements are stored as a seeded sample of this many.
STORED_WHOLE = 60_000

#: (case, output) -> (largest absolute error, tolerance at the largest value), filled as tests run.
ERRORS: dict[tuple[str, str], tuple[float, float]] = {}


#: The folder of the repository.
DEFAULT_FOLDER = Path(__file__).parent / "golden"
#: Components that some test asked for, filled as test modules are imported.
ASKED: set[str] = set()


def golden_folder() -> Path:
    """Where the cases are: PERCEPTION3D_GOLDEN, or the folder beside this file.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no case at all: every golden test
            would pass by running nothing.
    """
    folder = Path(os.environ.get("PERCEPTION3D_GOLDEN", DEFAULT_FOLDER))
    if not any(path.with_suffix(".npz").is_file() for path in folder.glob("*.json")):
        found = "holds no golden case (<case>.json beside <case>.npz)"
        raise FileNotFoundError(
            f"{folder} {found if folder.is_dir() else 'does not exist'}; PERCEPTION3D_GOLDEN must "
            f"name a folder of golden cases, or be unset for {DEFAULT_FOLDER}"
        )
    return folder


def golden(*components: str) -> list[str]:
    """Cases of some components that are there: ``<component>`` and ``<component>_b``.

    A folder that holds other components only gives an empty list, and pytest skips the test.

    Raises:
        FileNotFoundError: see :func:`golden_folder`.
    """
    ASKED.update(components)
    folder = golden_folder()
    names = [name for component in components for name in (component, component + "_b")]
    return [name for name in names if (folder / f"{name}.json").is_file()]


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def recipe_weight(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Value of a published state-dict entry: seeded by its name, scaled by its kind."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    normal = _generator(name).standard_normal(shape).astype(np.float32)
    if leaf == "running_var":
        return (0.5 + np.abs(normal)).astype(np.float32)
    if leaf in ("running_mean", "bias") or leaf.endswith("_bias"):
        return 0.1 * normal
    if leaf == "gamma":
        return 0.5 + 0.1 * normal
    if len(shape) < 2:
        return 1.0 + 0.1 * normal
    return (normal / math.sqrt(int(np.prod(shape[1:])))).astype(np.float32)


def recipe_input(name: str, spec: dict[str, Any]) -> NDArray[Any]:
    """Value of an input that is not stored: random numbers seeded by its name."""
    generator, shape = _generator("input:" + name), tuple(spec["shape"])
    low, high = spec.get("low", 0.0), spec.get("high", 1.0)
    if spec["kind"] == "normal":
        return generator.standard_normal(shape).astype(np.float32)
    if spec["kind"] == "uniform":
        return (low + (high - low) * generator.random(shape)).astype(np.float32)
    assert spec["kind"] == "randint", spec
    return generator.integers(int(low), int(high), shape)


@dataclass
class GoldenCase:
    """One case; ``errors`` collects the largest error of every output that was checked."""

    name: str
    about: dict[str, Any]
    weight_shapes: dict[str, list[int]]
    input_specs: dict[str, dict[str, Any]]
    output_specs: dict[str, dict[str, Any]]
    arrays: dict[str, NDArray[Any]]
    errors: dict[str, float] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """All weights by published name."""
        return {
            name: torch.from_numpy(np.asarray(recipe_weight(name, tuple(shape))))
            for name, shape in self.weight_shapes.items()
        }

    def inputs(self) -> dict[str, Tensor]:
        """Inputs by role: without a leading "<case>." and the suffix "_b" of a second case."""
        suffix = "_b" if self.name.endswith("_b") else ""
        result = {}
        for name, spec in self.input_specs.items():
            value = self.arrays["in/" + name] if spec.get("stored") else recipe_input(name, spec)
            role = name.removeprefix(self.name + ".").removesuffix(suffix)
            result[role] = torch.from_numpy(np.asarray(value))
        return result

    def stated(self, pattern: str, default: Sequence[float] = ()) -> tuple[float, ...]:
        """Numbers that the case's settings state in words, such as ``range [-54,-54,-5,54,54,3]``.

        Args:
            pattern: regular expression whose group holds numbers between commas; the first place
                where it matches counts.
            default: what to take when the settings do not state it.

        Raises:
            ValueError: neither stated nor given; shows the settings.
        """
        text = "; ".join(str(self.about.get(key, "")) for key in ("settings", "settings_common"))
        found = re.search(pattern, text)
        if found is None and not default:
            raise ValueError(f"{self.name}: {pattern!r} is not in the settings: {text}")
        return tuple(float(number) for number in found[1].split(",")) if found else tuple(default)

    def shape(self, output: str) -> list[int]:
        """Shape of an output."""
        return self.output_specs[output]["shape"]

    def check(
        self, output: str, value: Any, *, rtol: float = 1e-4, atol: float | None = None
    ) -> None:
        """Compare with what is stored.

        Integers must be equal. Floats: |difference| <= rtol |want| + atol + rtol max |want|, with
        atol 1e-5 or what the case suggests for this output.
        """
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        value = np.asarray(value)
        spec = self.output_specs[output]
        if value.size == 1 and math.prod(spec["shape"]) == 1:
            value = value.reshape(spec["shape"])
        assert list(value.shape) == spec["shape"], (
            f"{output}: shape {value.shape}, published {spec['shape']}"
        )
        want = self.arrays["out/" + output].astype(np.float64)
        got = value.reshape(-1)[self._stored(output, value.size)].astype(np.float64)
        if spec["dtype"].startswith(("int", "uint", "bool")):
            rtol, atol = 0.0, 0.0
        elif atol is None:
            atol = max(1e-5, self.about.get("suggested_atol", {}).get(output, 0.0))
        largest = float(np.abs(want).max(initial=0.0))
        error = float(np.abs(got - want).max(initial=0.0))
        self.errors[output] = error
        ERRORS[self.name, output] = (error, atol + 2 * rtol * largest)
        print(
            f"golden {self.name}/{output}: largest error {error:.2g}, largest value {largest:.3g}"
        )
        np.testing.assert_allclose(
            got, want, rtol=rtol, atol=atol + rtol * largest, err_msg=f"{self.name}/{output}"
        )

    def finish(self) -> None:
        """Fail unless every output of the case was checked."""
        assert self.errors.keys() == self.output_specs.keys(), (
            f"{self.name}: not checked: {sorted(self.output_specs.keys() - self.errors.keys())}"
        )

    def _stored(self, output: str, size: int) -> NDArray[np.int64]:
        if size <= STORED_WHOLE:
            return np.arange(size)
        return np.sort(_generator("sample:" + output).choice(size, STORED_WHOLE, replace=False))


def load_case(name: str) -> GoldenCase:
    """Read a case of the folder."""
    folder = golden_folder()
    meta = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz", allow_pickle=False) as npz:
        arrays = {key: npz[key] for key in npz.files}
    return GoldenCase(name, meta["about"], meta["weights"], meta["inputs"], meta["outputs"], arrays)
