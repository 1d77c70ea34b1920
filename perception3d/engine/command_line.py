"""Command lines of the tools: CONFIG, then the config's knobs and the tool's options as flags."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import torch
from torch import nn

from perception3d.engine.checkpoints import load_weights
from perception3d.engine.config_file import ConfigFile, load_config
from perception3d.engine.experiment import Experiment
from perception3d.engine.lock import InUseError
from perception3d.engine.nonfinite import NonFiniteError
from perception3d.engine.run_folder import Origin, find_weights

Options = TypeVar("Options")

HARMLESS_KNOBS = frozenset({"workers"})
"""Knobs that may differ when a run is continued: they move no number."""


@dataclass(frozen=True)
class Command(Generic[Options]):
    """A parsed command line: the config, its knobs by name, the tool's own options."""

    config: ConfigFile
    knobs: dict[str, Any]
    options: Options
    arguments: tuple[str, ...]

    def experiment(self) -> Experiment:
        """What the config makes of the knobs."""
        return self.config.build(self.knobs)

    def origin(self) -> Origin:
        """For the run folder."""
        return Origin(
            config=str(self.config.path),
            source=self.config.source,
            knobs=self.knobs,
            arguments=self.arguments,
        )


def parse_command(
    config_path: str,
    arguments: Sequence[str],
    options: type[Options],
    *,
    prog: str,
    earlier_knobs: dict[str, Any] | None = None,
) -> Command[Options]:
    """Parse flags against the knobs of a config and the fields of a dataclass of options.

    Args:
        config_path: the config file.
        arguments: flags after it.
        options: dataclass whose fields, all with defaults, are the tool's own flags.
        prog: shown in the help.
        earlier_knobs: values that replace the config's defaults (a run that is continued).

    Raises:
        ValueError: an unknown flag; lists the known ones and close matches. (A bad value of a known
            flag, and --help, end the program as command-line programs do.)
    """
    import tyro

    config = load_config(config_path)
    fields = [f.name for f in dataclasses.fields(options)]  # type: ignore[arg-type]
    taken = sorted(set(fields) & config.knobs.keys())
    if taken:
        raise ValueError(f"{config.path}: rename the knobs {taken}: {prog} has options so called")
    both = dataclasses.make_dataclass(
        "Both",
        [
            ("knobs", Annotated[dict, tyro.conf.arg(constructor=_collector(config), name="")]),
            ("options", Annotated[options, tyro.conf.arg(name="")]),
        ],
    )
    earlier = _flags(earlier_knobs or {}, config)
    parsed: Any
    parsed, unknown = tyro.cli(
        both,
        prog=f"{prog} {config.path}",
        description=_description(config),
        args=[*earlier, *arguments],
        return_unknown_args=True,
    )
    if unknown:
        raise ValueError(_unknown_flag(unknown[0], [*config.knobs, *fields]))
    return Command(config, parsed.knobs, parsed.options, tuple(arguments))


def check_knobs(record: dict[str, Any], knobs: dict[str, Any], folder: Path) -> None:
    """Refuse to continue a run with other knobs than it was started with.

    Raises:
        ValueError: naming each knob with both values.
    """
    before = record.get("knobs", {})
    now = json.loads(json.dumps(knobs, default=str))
    changed = [
        f"{name}: {before.get(name)} -> {now[name]}"
        for name in now
        if name not in HARMLESS_KNOBS and before.get(name, now[name]) != now[name]
    ]
    if changed:
        raise ValueError(
            f"{folder} was started with other knobs ({', '.join(changed)}): leave those flags out"
            " to continue it, or start a new run under another name (--run NAME)"
        )


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a tool runs in: plain log lines, errors of one line, Ctrl-C without a traceback.

    An error that says what to do ends the program with exit status 1, Ctrl-C with 130. With
    PERCEPTION3D_DEBUG=1 in the environment the traceback is shown as well.
    """
    _log_plainly()
    if threading.current_thread() is threading.main_thread():
        # A tool has a handler of its own while it imports.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (OSError, ValueError, ImportError, InUseError, NonFiniteError) as error:
        # What is missing but optional says how to get it; any other failed import is our fault.
        ours = isinstance(error, ImportError) and "pip install" not in str(error)
        if ours or os.environ.get("PERCEPTION3D_DEBUG") == "1":
            raise
        text = str(error) or type(error).__name__
        print(f"error: {text}\n(PERCEPTION3D_DEBUG=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        if os.environ.get("PERCEPTION3D_DEBUG") == "1":
            raise
        if _speaks():
            print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None


def _log_plainly() -> None:
    """Messages of this package go to stderr as plain lines, each once, from one process."""
    if logging.getLogger().handlers:
        return
    said: set[str] = set()

    def first_time(record: logging.LogRecord) -> bool:
        # A config may be built twice, and finds its data each time.
        text = record.getMessage()
        fresh = text not in said
        said.add(text)
        return fresh

    handler = logging.StreamHandler()
    handler.addFilter(first_time)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    logging.getLogger("perception3d").setLevel(logging.INFO if _speaks() else logging.WARNING)


def _speaks() -> bool:
    """Whether this is the first process of its machine (the launcher numbers the others)."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def model_with_weights(experiment: Experiment, which: str, root: Path) -> tuple[nn.Module, str]:
    """The experiment's model with the weights a user named, and where they came from.

    Args:
        experiment: builds the model.
        which: a weights file, the name or folder of a run (its best weights), or "untrained".
        root: folder of all runs.

    Raises:
        FileNotFoundError, ValueError: as ``find_weights`` and ``load_weights`` say.
    """
    torch.manual_seed(experiment.seed)
    model = experiment.model()
    if which == "untrained":
        return model, which
    path = find_weights(root, which)
    load_weights(model, path)
    return model, str(path)


def split_weights(arguments: Sequence[str]) -> tuple[str, str, list[str]] | None:
    """CONFIG, WEIGHTS and the flags of a command line that begins with them; None if it does not.

    A config followed by ``--help`` alone is enough: its knobs are to be explained.
    """
    words = list(arguments)
    if len(words) == 2 and words[1] in ("-h", "--help"):
        words.insert(1, "WEIGHTS")
    if len(words) < 2 or words[0].startswith("-") or words[1].startswith("-"):
        return None
    return words[0], words[1], words[2:]


def split_resume(arguments: Sequence[str]) -> list[str]:
    """Let ``--resume`` stand alone: the word "auto" is put where its value is left out."""
    result: list[str] = []
    for i, word in enumerate(arguments):
        result.append(word)
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if word == "--resume" and following.startswith("--"):
            result.append("auto")
    return result


def _collector(config: ConfigFile) -> Callable[..., dict[str, Any]]:
    @functools.wraps(config.function)
    def collect(**knobs: Any) -> dict[str, Any]:
        return knobs

    return collect


def _description(config: ConfigFile) -> str:
    # The part on arguments is shown flag by flag.
    text = inspect.getdoc(config.function) or inspect.getdoc(
        sys.modules[config.function.__module__]
    )
    return (text or "").partition("\nArgs:")[0].strip()


def _flags(knobs: dict[str, Any], config: ConfigFile) -> list[str]:
    """JSON values of knobs as the flags that give them."""
    words: list[str] = []
    for name, value in knobs.items():
        if name not in config.knobs:
            continue  # the config lost a knob since; its plan is checked against the checkpoint
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    return words


def _unknown_flag(flag: str, names: Sequence[str]) -> str:
    known = [f"--{name.replace('_', '-')}" for name in names]
    close = difflib.get_close_matches(flag.partition("=")[0], known, n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"unknown flag {flag}{hint} Known: {' '.join(sorted(known))}"
