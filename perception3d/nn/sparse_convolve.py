"""How sparse convolutions run: what they read, and whose kernels do the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from perception3d_ops.sparse_conv import sparse_conv
from perception3d_ops.sparse_sites import KernelMap, SparseSites
from torch import Tensor

from perception3d.structures import BEVGrid, SparseVoxels

Triple = tuple[int, int, int]
#: Whose kernels run a convolution: these, or those of the package spconv.
Backend = Literal["own", "spconv"]

ONE: Triple = (1, 1, 1)
ZERO: Triple = (0, 0, 0)


@dataclass(frozen=True)
class Reach:
    """Which inputs an output of a convolution reads; the arithmetic is that of ``conv3d``.

    Attributes:
        kernel, stride, padding, dilation, output_padding: along z, y, x.
        submanifold: outputs stand where inputs do, the kernel centred on them, whatever ``stride``
            and ``padding`` say.
        transposed: as in ``conv_transpose3d``.
    """

    kernel: Triple
    stride: Triple = ONE
    padding: Triple = ZERO
    dilation: Triple = ONE
    output_padding: Triple = ZERO
    submanifold: bool = False
    transposed: bool = False

    def map(self, sites: SparseSites) -> KernelMap:
        """The map that starts at some sites."""
        if self.submanifold:
            return sites.submanifold(self.kernel, self.dilation)
        return sites.strided(
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            transposed=self.transposed,
            output_padding=self.output_padding,
        )

    def grid(self, before: BEVGrid | None, shape: Sequence[int]) -> BEVGrid | None:
        """The outputs' cells from above; None if they do not cut the same rectangle evenly.

        Args:
            before: cells of the inputs.
            shape: output cells along z, y, x.
        """
        step = self.stride[1]
        if before is None or self.stride[2] != step:
            return None
        fine, coarse = (before.ny, before.nx), (shape[1], shape[2])
        if self.transposed:
            fine, coarse = coarse, fine
        if fine != (coarse[0] * step, coarse[1] * step):
            return None
        cell_m = before.cell_m / step if self.transposed else before.cell_m * step
        return replace(before, cell_m=cell_m)


class Convolve(Protocol):
    """What runs a convolution."""

    def __call__(
        self,
        voxels: SparseVoxels,
        weight: Tensor,
        bias: Tensor | None,
        reach: Reach,
        undone: SparseVoxels | None = None,
    ) -> SparseVoxels:
        """Convolve.

        Args:
            voxels: N rows of Cin features.
            weight: (Cout, kz, ky, kx, Cin).
            bias: (Cout,).
            reach: of the convolution; of the one to be undone for an inverse convolution.
            undone: the input of the convolution to be undone, for an inverse convolution.
        """
        ...


def convolve(
    voxels: SparseVoxels,
    weight: Tensor,
    bias: Tensor | None,
    reach: Reach,
    undone: SparseVoxels | None = None,
) -> SparseVoxels:
    """A convolution (see :class:`Convolve`) by :func:`perception3d_ops.sparse_conv.sparse_conv`."""
    found = reach.map(voxels.sites if undone is None else undone.sites)
    if undone is not None:
        found = found.inverse()
        check_same_sites("an inverse convolution", voxels.sites, found.source)
    rows = sparse_conv(voxels.features, weight.flatten(1, 3).permute(1, 2, 0), found)
    if bias is not None:
        rows = rows + bias.to(rows.dtype)
    for known in (voxels, undone):
        if known is not None and found.target is known.sites:
            return known.with_features(rows)
    return SparseVoxels(rows, found.target, reach.grid(voxels.grid, found.target.shape))


def check_same_sites(what: str, found: SparseSites, wanted: SparseSites) -> None:
    """Raise ValueError unless both are the same cells."""
    if found is wanted:
        return
    if found.shape != wanted.shape or not torch.equal(found.index, wanted.index):
        raise ValueError(
            f"{what} needs the same sites on both sides: {len(wanted)} in a grid {wanted.shape}; "
            f"found {len(found)}{' others' if len(found) == len(wanted) else ''} in {found.shape}"
        )


def convolve_by(backend: Backend) -> Convolve:
    """The function that runs convolutions.

    Raises:
        ValueError: an unknown backend.
        ImportError: spconv is asked for and not installed.
    """
    if backend == "own":
        return convolve
    if backend == "spconv":
        from perception3d.nn.sparse_spconv import convolve_with_spconv, load_spconv

        load_spconv()
        return convolve_with_spconv
    raise ValueError(f"the sparse backend must be own or spconv; found {backend!r}")
