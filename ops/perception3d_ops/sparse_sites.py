"""Occupied cells of a 3-D grid, and the kernel maps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from perception3d_ops.checks import check_tensor
from perception3d_ops.sparse_maps import (
    Triple,
    site_keys,
    sort_sites,
    strided_map,
    submanifold_table,
    turn_table,
)


@dataclass(frozen=True)
class SparseSites:
    """N occupied cells. Maps that start here are made once and kept as long as the sites live.

    The constructor takes what is in order already; :meth:`of` sorts and checks.

    Attributes:
        index: (N, 4) int32 sample, z, y, x; each once, in lexicographic order.
        shape: cells along z, y, x.
        batch_size: samples; each may own no site.
    """

    index: Tensor
    shape: Triple
    batch_size: int
    _maps: dict[tuple[object, ...], _Made] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_tensor("sites", self.index, ("N", 4), types=(torch.int32,))

    def __len__(self) -> int:
        return self.index.shape[0]

    def keys(self) -> Tensor:
        """(N,) int64 number of each site's cell in the batch, ((sample nz + z) ny + y) nx + x."""
        return site_keys(self.index, self.shape)

    @staticmethod
    def of(
        index: Tensor, shape: Sequence[int], batch_size: int
    ) -> tuple[SparseSites, Tensor | None]:
        """Sites of cells in any order.

        Args:
            index: (N, 4) integers sample, z, y, x, each once.
            shape: cells along z, y, x.
            batch_size: samples.

        Returns:
            The sites, and the (N,) int64 rows of ``index`` in their order; None where they were
            sorted already.

        Raises:
            ValueError: another shape or type, a cell outside of the grid or of the batch (published
                linear hashes silently take it for another one), or one that occurs twice.
        """
        types = (torch.int32, torch.int64)
        check_tensor("index", index, ("N", 4), types=types)
        if len(shape) != 3 or min(shape) < 1 or batch_size < 1:
            raise ValueError(
                f"shape must be three positive sizes z, y, x and batch_size positive; found "
                f"{tuple(shape)}, {batch_size}"
            )
        nz, ny, nx = (int(n) for n in shape)
        sorted_index, order, facts = sort_sites(index, (nz, ny, nx), batch_size)
        outside, first, again, second = facts.tolist()
        if outside:
            raise ValueError(
                f"{outside} of {len(index)} sites lie outside of batch x grid ({batch_size}, {nz}, "
                f"{ny}, {nx}), the first of them {index[first].tolist()}"
            )
        if again:
            raise ValueError(
                f"{again} sites occur more than once, such as {index[second].tolist()}"
            )
        sites = SparseSites(sorted_index, (nz, ny, nx), batch_size)
        return sites, order if len(order) == len(index) > 0 else None

    def submanifold(self, kernel: Triple, dilation: Triple = (1, 1, 1)) -> KernelMap:
        """The map of a convolution whose outputs stand where its inputs do.

        Raises:
            ValueError: an even kernel, which has no centre.
        """
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"a submanifold kernel must have odd sizes; found {kernel}")
        check_triple("kernel", kernel, 1)
        check_triple("dilation", dilation, 1)
        key = ("submanifold", kernel, dilation)
        if key not in self._maps:
            table = submanifold_table(self.index, self.shape, kernel, dilation)
            self._maps[key] = _Made(None, table, [])
        return self._map(key)

    def strided(
        self,
        kernel: Triple,
        stride: Triple,
        padding: Triple,
        dilation: Triple = (1, 1, 1),
        *,
        transposed: bool = False,
        output_padding: Triple = (0, 0, 0),
    ) -> KernelMap:
        """The map of a convolution whose outputs are all sites that an input touches.

        Raises:
            ValueError: the output grid has no cell.
        """
        for name, triple, least in (
            ("kernel", kernel, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("dilation", dilation, 1),
            ("output_padding", output_padding, 0),
        ):
            check_triple(name, triple, least)
        sizes = zip(self.shape, kernel, stride, padding, dilation, output_padding)
        if transposed:
            shape = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + o for n, k, s, p, d, o in sizes]
        else:
            shape = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sizes]
        if min(shape) < 1:
            raise ValueError(
                f"a grid of {self.shape} cells has no output with kernel {kernel}, stride {stride},"
                f" padding {padding}, dilation {dilation}"
            )
        key = ("strided", kernel, stride, padding, dilation, transposed, output_padding)
        if key not in self._maps:
            index, table = strided_map(
                self.index,
                self.batch_size,
                self.shape,
                shape,
                kernel,
                stride,
                padding,
                dilation,
                transposed,
            )
            out = SparseSites(index, (shape[0], shape[1], shape[2]), self.batch_size)
            self._maps[key] = _Made(out, table, [])
        return self._map(key)

    def _map(self, key: tuple[object, ...]) -> KernelMap:
        made = self._maps[key]
        target = self if made.target is None else made.target
        return KernelMap(self, target, made.table, made.turned)

    def to(self, device: torch.device | str) -> SparseSites:
        """The same sites on another device, without maps."""
        return SparseSites(self.index.to(device), self.shape, self.batch_size)


class _Made(NamedTuple):
    """What sites keep of a map that starts at them.

    Not the map itself, which holds the sites: Python frees such a circle, and the hundred megabytes
    in it, only when its collector comes by. For the same reason there is no target where it is the
    sites themselves.
    """

    target: SparseSites | None
    table: Tensor
    turned: list[Tensor]


def check_triple(name: str, triple: Triple, least: int) -> None:
    """Raise ValueError unless all three numbers (z, y, x) are at least ``least``."""
    if len(triple) != 3 or min(triple) < least:
        raise ValueError(f"{name} must be three numbers of {least} or more; found {tuple(triple)}")


@dataclass(frozen=True)
class KernelMap:
    """Which input row each tap of each output row reads.

    Attributes:
        source: N sites of the inputs.
        target: M sites of the outputs.
        table: (K, M) int32 input rows, or -1.
    """

    source: SparseSites
    target: SparseSites
    table: Tensor
    _turned: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def back(self) -> Tensor | None:
        """(K, N) int32 output rows that an input feeds, or -1; made once a gradient asks for it.

        None where both sites are the same, for then it is ``table`` with its taps in reverse.
        """
        if self.target is self.source:
            return None
        if not self._turned:
            self._turned.append(turn_table(self.table, len(self.source)))
        return self._turned[0]

    def inverse(self) -> KernelMap:
        """The map of the inverse convolution: from the outputs back to the inputs' sites."""
        back = self.table.flip(0) if self.back is None else self.back
        return KernelMap(self.target, self.source, back, [self.table])
