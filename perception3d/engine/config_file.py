"""Config files: one Python file a run, with one function ``experiment(**knobs) -> Experiment``."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception3d.engine.experiment import Experiment


@dataclass(frozen=True)
class ConfigFile:
    """A loaded config file.

    Attributes:
        path: the file.
        source: its text.
        function: its ``experiment``; the keyword parameters are the knobs.
    """

    path: Path
    source: str
    function: Callable[..., Experiment]

    @property
    def knobs(self) -> dict[str, inspect.Parameter]:
        """The parameters of ``experiment``."""
        return dict(inspect.signature(self.function).parameters)

    def build(self, knobs: dict[str, Any]) -> Experiment:
        """Call ``experiment(**knobs)``.

        Raises:
            ValueError: it returned something else than an Experiment.
        """
        built = self.function(**knobs)
        if not isinstance(built, Experiment):
            raise ValueError(
                f"{self.path}: experiment() returned {type(built).__name__}, expected Experiment"
            )
        return built


def variant_of(function: Callable[..., Experiment], **defaults: Any) -> Callable[..., Experiment]:
    """A config's ``experiment`` with other defaults of some knobs: the same knobs, the same help.

    Raises:
        ValueError: the config has no such knob.
    """
    signature = inspect.signature(function)
    if unknown := sorted(defaults.keys() - signature.parameters.keys()):
        raise ValueError(f"{function.__module__} has no knobs {', '.join(unknown)}")

    @functools.wraps(function)
    def experiment(**knobs: Any) -> Experiment:
        return function(**(defaults | knobs))

    parameters = [
        parameter.replace(default=defaults.get(name, parameter.default))
        for name, parameter in signature.parameters.items()
    ]
    experiment.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return experiment


def load_config(path: str | Path) -> ConfigFile:
    """Import a config file by its path.

    The folder that holds the config's folder can be imported from, so that a variant may say
    ``from configs.cmt_fusion import experiment as base``.

    Raises:
        FileNotFoundError: no such file; names those that are there.
        ValueError: no function ``experiment``, or one with parameters that cannot be flags.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(_not_found(path))
    root = str(path.resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    name = f"perception3d_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file; a config is configs/NAME.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    function = getattr(module, "experiment", None)
    if not callable(function):
        raise ValueError(f"{path} has no function experiment(**knobs) -> Experiment")
    for parameter in inspect.signature(function).parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if not named or parameter.default is parameter.empty:
            raise ValueError(
                f"{path}: experiment's parameter {parameter} needs a name, a type and a default:"
                " it is a command-line flag"
            )
    return ConfigFile(path, path.read_text(), function)


def _not_found(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    there = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    close = difflib.get_close_matches(path.stem, there, n=1)
    hint = f"; did you mean {folder / close[0]}.py?" if close else ""
    return f"no config file {path}{hint} ({folder} holds: {', '.join(there) or 'none'})"
