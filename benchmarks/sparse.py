"""Sparse convolution: layers, the whole encoder, training steps; spconv's race on two threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from perception3d_ops.hard_voxels import hard_voxels
from perception3d_ops.norm_rows import norm_rows
from perception3d_ops.sparse_conv import sparse_conv, sparse_conv_twin
from perception3d_ops.sparse_sites import KernelMap, SparseSites
from torch import Tensor, nn

from benchmarks.peers import spconv_or_none
from benchmarks.timing import Case
from benchmarks.voxels import RANGE_M, Ways
from perception3d.backbones.voxels import SparseEncoder
from perception3d.structures import BEVGrid, SparseVoxels

SHAPE = (41, 1440, 1440)
CUBE = (3, 3, 3)


@dataclass(frozen=True)
class Voxels:
    """(N, 5) mean features of a cloud's voxels of 0.075 m, at sorted places."""

    features: Tensor
    sites: SparseSites

    @staticmethod
    def of(points: Tensor) -> Voxels:
        """Of (P, 5) points of one sample."""
        offsets = torch.tensor([0, len(points)], device=points.device)
        found = hard_voxels(
            points[:, :3], offsets, range_m=RANGE_M, cell_m=(0.075, 0.075, 0.2), max_points=10,
            max_voxels=160_000,
        )  # fmt: skip
        sites, order = SparseSites.of(found.index, SHAPE, 1)
        features = found.mean(points[found.point])
        return Voxels(features if order is None else features[order], sites)

    def fresh(self) -> SparseSites:
        """The same sites with no map made yet."""
        return SparseSites(self.sites.index, SHAPE, 1)


def layer_cases(voxels: Voxels, dtype: torch.dtype = torch.float32) -> Iterator[Case]:
    """Single layers, their kernel maps at hand or made each time."""
    device, half = voxels.features.device, dtype != torch.float32
    kind = "fp16 " if half else ""
    found = voxels.sites.submanifold(CUBE)
    for channels in (16, 32, 64, 128):
        layer = _Layer(voxels, channels, channels, found, dtype)
        gflop, gbyte = _work(found, channels, channels, dtype)
        for name, ways, times in (
            ("map at hand", layer.forward_ways(cold=False), 1),
            ("map made", layer.forward_ways(cold=True), 1),
            ("backward", layer.backward_ways(), 2),
        ):
            title = f"{kind}SubM {channels}, {name}"
            yield Case(title, ways, times * gflop, times * gbyte, half)
    for channels in (16, 64) if device.type == "cpu" and not half else ():
        ways, gbyte = _norm_ways(len(voxels.sites), channels)
        yield Case(f"batch norm, sum, ReLU {channels}, training step", ways, None, gbyte)
    strided = voxels.fresh().strided(CUBE, (2, 2, 2), (1, 1, 1))
    ways = _Layer(voxels, 16, 32, None, dtype).forward_ways(cold=True)
    gflop, gbyte = _work(strided, 16, 32, dtype)
    yield Case(f"{kind}SparseConv 16 to 32, stride 2, map made", ways, gflop, gbyte, half)
    if device.type == "cpu":
        image, weight = torch.randn(1, 64, 180, 180), torch.randn(64, 64, 3, 3)
        dense: Ways = {"torch conv2d": lambda: nn.functional.conv2d(image, weight, padding=1)}
        gflop = 2e-9 * 180 * 180 * 9 * 64 * 64
        yield Case("for scale: conv2d 64 on 180 x 180", dense, gflop)


def _work(
    found: KernelMap, channels_in: int, channels_out: int, dtype: torch.dtype
) -> tuple[float, float]:
    """GFLOP of the pairs in a map; GB of rows read and written once, of the map and the weights."""
    pairs = float((found.table >= 0).sum())
    numbers = len(found.source) * channels_in + len(found.target) * channels_out
    numbers += len(found.table) * channels_in * channels_out
    traffic = numbers * torch.empty(0, dtype=dtype).element_size() + found.table.numel() * 4
    return 2e-9 * pairs * channels_in * channels_out, 1e-9 * traffic


def _norm_ways(count: int, channels: int) -> tuple[Ways, float]:
    """Forward and backward by one op, and by PyTorch's; GB that must be read and written."""
    generator = torch.Generator().manual_seed(channels)
    rows, added, slope = torch.randn(3, count, channels, generator=generator)
    norm = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)
    inputs = rows.requires_grad_(), norm.weight, norm.bias, added.requires_grad_()

    def own() -> Any:
        still = torch.zeros(channels), torch.ones(channels)
        out = norm_rows(*inputs[:3], still, eps=norm.eps, residual=added)[0]
        return torch.autograd.grad(out, inputs, slope)

    def torch_() -> Any:
        return torch.autograd.grad(torch.relu_(norm(rows) + added), inputs, slope)

    # Forward: two read, one written; backward: gradient, rows and result read, two written.
    return {"own": own, "torch": torch_}, 8e-9 * count * channels * 4


class _Layer:
    """One convolution of Cin to Cout channels, ours and spconv's, with the same weights."""

    def __init__(
        self,
        voxels: Voxels,
        channels_in: int,
        channels_out: int,
        found: KernelMap | None,
        dtype: torch.dtype,
    ) -> None:
        generator = torch.Generator().manual_seed(channels_out)
        rows = torch.randn(len(voxels.sites), channels_in, generator=generator)
        weight = torch.randn(27, channels_in, channels_out, generator=generator) / 20
        self.voxels, self.found = voxels, found
        self.rows = rows.to(voxels.features.device, dtype)
        self.weight = weight.to(self.rows)
        self.spconv = spconv_or_none(self.rows.device)
        self.peer = self._make_peer(channels_in, channels_out) if self.spconv else None

    def _make_peer(self, channels_in: int, channels_out: int) -> nn.Module:
        settings = {"bias": False, "indice_key": "map"}
        if self.found is not None:
            layer = self.spconv.SubMConv3d(channels_in, channels_out, 3, **settings)
        else:
            layer = self.spconv.SparseConv3d(channels_in, channels_out, 3, 2, 1, **settings)
        own = self.weight.view(*CUBE, channels_in, channels_out).permute(4, 0, 1, 2, 3)
        with torch.no_grad():
            layer.weight.copy_(own)
        return layer.to(self.rows.device, self.rows.dtype)

    def _peer_input(self, rows: Tensor) -> Any:
        return self.spconv.SparseConvTensor(rows, self.voxels.sites.index, list(SHAPE), 1)

    def _map(self) -> KernelMap:
        if self.found is not None:
            return self.voxels.fresh().submanifold(CUBE)
        return self.voxels.fresh().strided(CUBE, (2, 2, 2), (1, 1, 1))

    @torch.no_grad()
    def forward_ways(self, *, cold: bool) -> Ways:
        """Ways to run it; ``cold``: the kernel map is made each time."""
        found = self._map()

        def own() -> Tensor:
            with torch.no_grad():
                return sparse_conv(self.rows, self.weight, self._map() if cold else found)

        def twin() -> Tensor:
            with torch.no_grad():
                return sparse_conv_twin(self.rows, self.weight, found.table, None, False)

        ways: Ways = {"own": own}
        if not cold:
            ways["twin (torch, gather mm scatter)"] = twin
        if self.peer is not None:
            peer = self.peer.eval()
            with torch.no_grad():
                known = peer(self._peer_input(self.rows))  # its output holds the map

            def theirs() -> Tensor:
                start = self._peer_input(self.rows)
                if not cold:
                    start.indice_dict = known.indice_dict
                with torch.no_grad():
                    return peer(start).features

            ways["spconv"] = theirs
        return ways

    def backward_ways(self) -> Ways:
        """Ways to derive features and weights, with the map at hand."""
        found = self._map()
        slope = torch.randn(len(found.target), self.weight.shape[2]).to(self.rows)

        def derive(out: Tensor, *inputs: Tensor) -> Any:
            return torch.autograd.grad(out, inputs, slope, retain_graph=True)

        rows, weight = self.rows.clone().requires_grad_(), self.weight.clone().requires_grad_()
        out = sparse_conv(rows, weight, found)
        ways: Ways = {"own": lambda: derive(out, rows, weight)}
        if self.peer is not None:
            peer_rows = self.rows.clone().requires_grad_()
            peer_out = self.peer.train()(self._peer_input(peer_rows)).features
            parameter = self.peer.weight
            ways["spconv"] = lambda: derive(peer_out, peer_rows, parameter)
        return ways


def encoder_cases(voxels: Voxels, dtype: torch.dtype = torch.float32) -> Iterator[Case]:
    """The published encoder, in evaluation and as a training step, maps and dense map included.

    In half precision by autocast.
    """
    half = dtype != torch.float32
    grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.075)
    torch.manual_seed(0)
    encoder = SparseEncoder(mixed=half).to(voxels.features.device)
    device = voxels.features.device
    peers = {}
    if spconv_or_none(device) is not None:
        for name, shared in (("spconv, as published", False), ("spconv, maps shared", True)):
            peers[name] = peer_encoder(encoder, shared).to(device)

    def start() -> SparseVoxels:
        return SparseVoxels(voxels.features, voxels.fresh(), grid)

    def cast() -> torch.autocast:
        return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)

    def own() -> Tensor:
        with torch.no_grad(), cast():
            return encoder.eval()(start()).data

    def theirs(peer: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad(), cast():
                return peer.eval()(voxels.features, voxels.sites.index)

        return run

    def step(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.train()
            model.zero_grad()
            with cast():
                loss = forward().float().square().mean()
            loss.backward()

        return run

    gflop = _encoder_gflop(encoder, start())
    ways: Ways = {"own": own, **{name: theirs(peer) for name, peer in peers.items()}}
    results = {name: way() for name, way in ways.items()}
    for name, result in results.items():
        difference = float((result - results["own"]).abs().max())
        assert difference < (0.1 if half else 1e-4), f"{name} differs from ours by {difference}"
    kind = "fp16 " if half else ""
    yield Case(f"{kind}encoder, evaluation", ways, gflop, half=half)
    steps: Ways = {"own": step(encoder, lambda: encoder(start()).data)}
    for name, peer in peers.items():
        steps[name] = step(peer, lambda peer=peer: peer(voxels.features, voxels.sites.index))
    yield Case(f"{kind}encoder, training step", steps, 3 * gflop, half=half)


def _encoder_gflop(encoder: SparseEncoder, voxels: SparseVoxels) -> float:
    """Useful GFLOP of one pass: 2 Cin Cout for each pair that a map holds."""
    total = 0.0

    def count(conv: nn.Module, inputs: tuple[SparseVoxels, ...], _: object) -> None:
        nonlocal total
        pairs = int((conv.reach.map(inputs[0].sites).table >= 0).sum())
        total += 2e-9 * pairs * conv.weight.shape[0] * conv.weight.shape[-1]

    hooks = [m.register_forward_hook(count) for m in encoder.modules() if hasattr(m, "reach")]
    encoder.eval()(voxels)
    for hook in hooks:
        hook.remove()
    return total


def peer_encoder(encoder: SparseEncoder, shared: bool) -> nn.Module:
    """The same encoder of spconv's own layers with the same weights.

    Args:
        encoder: whose weights are copied.
        shared: whether the layers of a stage share one map; in mmdetection3d, as published, each
            of the 16 convolutions in residual blocks makes its own.
    """
    return _PeerEncoder(encoder, spconv_or_none(encoder.input.conv.weight.device), shared)


class _PeerEncoder(nn.Module):
    def __init__(self, encoder: SparseEncoder, spconv: Any, shared: bool) -> None:
        super().__init__()
        self.spconv = spconv
        self.layers = nn.ModuleList()
        self.plan: list[str] = []

        def add(block: nn.Module, conv: str, norm: str, role: str, key: str | None) -> None:
            ours = getattr(block, conv)
            out_channels, *kernel, in_channels = ours.weight.shape
            kind = spconv.SubMConv3d if ours.reach.submanifold else spconv.SparseConv3d
            layer = kind(
                in_channels, out_channels, kernel, list(ours.reach.stride),
                list(ours.reach.padding), bias=False, indice_key=key,
            )  # fmt: skip
            with torch.no_grad():
                layer.weight.copy_(ours.weight)
            theirs = nn.BatchNorm1d(out_channels, eps=1e-3, momentum=0.01)
            theirs.load_state_dict(getattr(block, norm).state_dict())
            self.layers.append(nn.ModuleList((layer, theirs)))
            self.plan.append(role)

        add(encoder.input, "conv", "norm", "plain", "subm1")
        for number, stage in encoder.stages.items():
            for block in stage:
                if hasattr(block, "conv1"):
                    key = f"subm{number}" if shared else None
                    add(block, "conv1", "norm1", "first", key)
                    add(block, "conv2", "norm2", "second", key)
                else:
                    add(block, "conv", "norm", "plain", f"spconv{number}")
        add(encoder.output, "conv", "norm", "plain", "spconv_down2")

    def forward(self, rows: Tensor, index: Tensor) -> Tensor:
        x = self.spconv.SparseConvTensor(rows, index, list(SHAPE), 1)
        before = x
        for role, (conv, norm) in zip(self.plan, self.layers):
            if role == "first":
                before = x
            x = conv(x)
            features = norm(x.features)
            if role == "second":
                features = features + before.features
            x = x.replace_feature(torch.relu_(features))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how it indexes, which torch no longer likes
            return x.dense().flatten(1, 2)


def races(voxels: Voxels, repeats: int = 40) -> dict[str, int]:
    """Runs of ``repeats`` in which some row differs from the same layer on one thread.

    Small enough for many runs: 16 channels, the first 20,000 voxels.
    """
    spconv = spconv_or_none()
    index = voxels.sites.index[:20_000].cpu()
    sites, _ = SparseSites.of(index, SHAPE, 1)
    rows = torch.randn(len(sites), 16, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    counts = {}
    layer = None if spconv is None else spconv.SubMConv3d(16, 16, 3, bias=False).eval()
    weight = torch.randn(27, 16, 16, generator=torch.Generator().manual_seed(1)) / 20

    def own() -> Tensor:
        return sparse_conv(rows, weight, sites.submanifold(CUBE))

    def theirs() -> Tensor:
        assert layer is not None and spconv is not None
        return layer(spconv.SparseConvTensor(rows, sites.index, list(SHAPE), 1)).features

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, run in {"own": own, **({"spconv": theirs} if layer is not None else {})}.items():
            torch.set_num_threads(1)
            want = run()
            torch.set_num_threads(2)
            limit = 0.0 if name == "own" else 1e-4
            counts[name] = sum(float((run() - want).abs().max()) > limit for _ in range(repeats))
    torch.set_num_threads(before)
    return counts
