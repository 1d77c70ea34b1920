"""Where the time, or the work, of a pass goes: each part without the parts inside of it."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import perception3d.backbones.pillars
import perception3d.backbones.voxels

#: Functions that are a part of their own: where they are looked up, and what the part is called.
FUNCTIONS = (
    (perception3d.backbones.pillars, "hard_voxels", "voxelize"),
    (perception3d.backbones.voxels, "hard_voxels", "voxelize"),
)


class Clock:
    """Adds up what is read off between the beginning and the end of each part.

    Args:
        read: the reading: seconds, say.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.taken: dict[str, float] = {}
        self._open: list[list[Any]] = []  # name, begin, taken by parts inside

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        """Of seconds, once the device has done all that it was given."""

        def seconds() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        return cls(seconds)

    @classmethod
    def of_work(cls, counter: FlopCounterMode) -> Clock:
        """Of operations in GFLOP."""
        return cls(lambda: 1e-9 * counter.get_total_flops())

    def begin(self, name: str) -> None:
        """A part begins, inside of the one that is open."""
        self._open.append([name, self.read(), 0.0])

    def end(self) -> None:
        """The part that began last ends."""
        name, begin, inside = self._open.pop()
        taken = self.read() - begin
        self.taken[name] = self.taken.get(name, 0.0) + taken - inside
        if self._open:
            self._open[-1][2] += taken

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside is that part's."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    @contextlib.contextmanager
    def watching(self, parts: dict[str, nn.Module]) -> Iterator[None]:
        """Every call of these modules counts inside, and of :data:`FUNCTIONS`."""
        with contextlib.ExitStack() as stack:
            for name, part in parts.items():
                stack.enter_context(self._watched(name, part))
            for owner, function, name in FUNCTIONS:
                stack.enter_context(self._replaced(owner, function, name))
            yield

    @contextlib.contextmanager
    def _watched(self, name: str, part: nn.Module) -> Iterator[None]:
        if type(part).forward is not nn.Module.forward:
            hooks = (
                part.register_forward_pre_hook(lambda *_: self.begin(name)),
                part.register_forward_hook(lambda *_: self.end()),
            )
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()
            return
        # Tokens are asked by several methods.
        with contextlib.ExitStack() as stack:
            for method, function in vars(type(part)).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    stack.enter_context(self._replaced(part, method, name))
            yield

    @contextlib.contextmanager
    def _replaced(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        original, own = getattr(owner, attribute), attribute in vars(owner)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return original(*arguments, **named)

        setattr(owner, attribute, counted)
        try:
            yield
        finally:
            if own:
                setattr(owner, attribute, original)
            else:
                delattr(owner, attribute)
