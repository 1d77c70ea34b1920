"""Sparse 3-D convolution layers with published weights, in either layout.

Layers take and give :class:`SparseVoxels`. Sizes are in the order z, y, x. Which input feeds which
output is found once for all layers that ask for the same at the same sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from perception3d.nn.sparse_convolve import Backend, Reach, Triple, convolve_by
from perception3d.structures import SparseVoxels

Size = int | Sequence[int]
#: How a checkpoint holds a kernel: (out, z, y, x, in), as here and in spconv 2; or (z, y, x, in,
#: out), as in mmcv and spconv 1; "auto" goes by the shape.
KernelLayout = Literal["auto", "spconv1", "spconv2"]


class SubMConv3d(nn.Module):
    """Submanifold convolution: outputs exist where inputs do, and see nothing else.

    Args:
        in_channels, out_channels: Cin, Cout.
        kernel_size: odd sizes.
        padding: ignored, as published: the kernel is centred.
        dilation: cells between taps.
        bias: whether there is one.
        backend: whose kernels run it.

    Attributes:
        weight: (Cout, kz, ky, kx, Cin), the layout of spconv 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = False,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        kernel = _triple("kernel_size", kernel_size)
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"a submanifold kernel must have odd sizes; found {kernel}")
        self.reach = Reach(kernel, dilation=_triple("dilation", dilation), submanifold=True)
        self.weight, self.bias = _parameters(in_channels, out_channels, kernel, bias)
        self.convolve = convolve_by(backend)

    def forward(self, voxels: SparseVoxels) -> SparseVoxels:
        """(N, Cin) -> (N, Cout) at the same sites."""
        return self.convolve(voxels, self.weight, self.bias, self.reach)


class SparseConv3d(nn.Module):
    """Convolution whose outputs are all cells that some input touches.

    Equal to ``conv3d`` on the dense grid there. Arguments as of :class:`SubMConv3d`, and ``stride``
    and ``padding``, which count here.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = False,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        self.reach = _reach(kernel_size, stride, padding, dilation)
        self.weight, self.bias = _parameters(in_channels, out_channels, self.reach.kernel, bias)
        self.convolve = convolve_by(backend)

    def forward(self, voxels: SparseVoxels) -> SparseVoxels:
        """(N, Cin) -> (M, Cout) at the touched cells of a grid of (n + 2p - d(k - 1) - 1)//s + 1.

        Raises:
            ValueError: the output grid has no cell.
        """
        return self.convolve(voxels, self.weight, self.bias, self.reach)


class SparseConvTranspose3d(nn.Module):
    """Transposed convolution: each input feeds cells of a finer grid, all of which then exist.

    Equal to ``conv_transpose3d`` there, with tap k as it is held: not mirrored. Arguments as of
    :class:`SparseConv3d`; ``output_padding`` adds cells at the end of the grid.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        dilation: Size = 1,
        bias: bool = False,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        reach = _reach(kernel_size, stride, padding, dilation)
        extra = _triple("output_padding", output_padding, least=0)
        self.reach = replace(reach, output_padding=extra, transposed=True)
        self.weight, self.bias = _parameters(in_channels, out_channels, reach.kernel, bias)
        self.convolve = convolve_by(backend)

    def forward(self, voxels: SparseVoxels) -> SparseVoxels:
        """(N, Cin) -> (M, Cout)."""
        return self.convolve(voxels, self.weight, self.bias, self.reach)


class SparseInverseConv3d(nn.Module):
    """Leads from the outputs of a :class:`SparseConv3d` back to the sites of its inputs.

    Args:
        in_channels, out_channels: Cin, Cout.
        kernel_size, stride, padding, dilation: those of the convolution that it undoes.
        bias, backend: as of :class:`SubMConv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        *,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        bias: bool = False,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        self.reach = _reach(kernel_size, stride, padding, dilation)
        self.weight, self.bias = _parameters(in_channels, out_channels, self.reach.kernel, bias)
        self.convolve = convolve_by(backend)

    def forward(self, voxels: SparseVoxels, undone: SparseVoxels) -> SparseVoxels:
        """(M, Cin) -> (N, Cout).

        Args:
            voxels: at the outputs' sites of the convolution to be undone.
            undone: what that convolution took; the result stands at its sites.

        Raises:
            ValueError: ``voxels`` stand elsewhere.
        """
        return self.convolve(voxels, self.weight, self.bias, self.reach, undone)


SPARSE_LAYERS = (SubMConv3d, SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d)


def read_kernels(
    model: nn.Module, state: Mapping[str, Tensor], layout: KernelLayout = "auto"
) -> dict[str, Tensor]:
    """A state dict of ``model`` with the kernels of its sparse layers in the layout used here.

    Args:
        model: whose layers tell which entries are kernels, and of which shape.
        state: by the model's names; entries may be missing or superfluous, they stay as they are.
        layout: how ``state`` holds kernels.

    Raises:
        ValueError: a kernel fits both layouts (a channel count that equals a kernel size
            throughout) and ``layout`` is "auto"; or an unknown layout.
    """
    result = dict(state)
    for name, module in model.named_modules():
        key = f"{name}.weight" if name else "weight"
        if isinstance(module, SPARSE_LAYERS) and key in result:
            result[key] = as_kernel(result[key], module.weight.shape, layout, name=key)
    return result


def as_kernel(
    kernel: Tensor, shape: Sequence[int], layout: KernelLayout = "auto", *, name: str = "kernel"
) -> Tensor:
    """A kernel in the layout (Cout, kz, ky, kx, Cin) of ``shape``.

    A kernel that fits neither layout comes back as it is, for the loader to complain about. Raises
    as :func:`read_kernels`.
    """
    if layout not in ("auto", "spconv1", "spconv2"):
        raise ValueError(f"the layout must be auto, spconv1 or spconv2; found {layout!r}")
    own = tuple(shape)
    fits_own = tuple(kernel.shape) == own
    fits_old = tuple(kernel.shape) == (*own[1:], own[0])
    # A kernel of one number reads the same both ways.
    if layout == "auto" and fits_own and fits_old and kernel.numel() > 1:
        raise ValueError(
            f"{name} of shape {own} may be (out, z, y, x, in), as in spconv 2, or (z, y, x, in, "
            "out), as in mmcv and spconv 1: say which, spconv2 or spconv1"
        )
    old = fits_old and (layout == "spconv1" or (layout == "auto" and not fits_own))
    return kernel.permute(4, 0, 1, 2, 3).contiguous() if old else kernel


def _parameters(
    in_channels: int, out_channels: int, kernel: Triple, bias: bool
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias, uniform within 1 / sqrt(K Cin), as published and as dense layers of torch.

    Raises:
        ValueError: a channel count that is not positive.
    """
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"channels must be positive; found {in_channels} in, {out_channels} out")
    weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    if not bias:
        return weight, None
    bound = 1 / math.sqrt(weight[0].numel())
    return weight, nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))


def _reach(kernel: Size, stride: Size, padding: Size, dilation: Size) -> Reach:
    return Reach(
        _triple("kernel_size", kernel),
        _triple("stride", stride),
        _triple("padding", padding, least=0),
        _triple("dilation", dilation),
    )


def _triple(name: str, size: Size, *, least: int = 1) -> Triple:
    sizes = (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(sizes) != 3 or not all(isinstance(n, int) and n >= least for n in sizes):
        raise ValueError(f"{name} must be one or three whole numbers >= {least}; found {size}")
    return sizes[0], sizes[1], sizes[2]
