"""How ops sit in torch: schemas, fake kernels, gradients, compilation, and life without kernels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from perception3d_ops import library
from perception3d_ops.dynamic_voxels import dynamic_voxels
from perception3d_ops.hard_voxels import hard_voxels
from perception3d_ops.sparse_conv import sparse_conv
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor

from tests.ops.op_inputs import cloud, seeded, sites

ROOT = Path(__file__).parents[2]
OPS = torch.ops.perception3d
RANGE_M = (-8.0, -6.0, -2.0, 8.0, 6.0, 3.0)


def samples() -> dict[str, tuple[Any, ...]]:
    """Arguments of every op of this room."""
    xyz, offsets = cloud([80, 0, 60], 0)
    key = OPS.voxel_keys(xyz, offsets, RANGE_M[:3], (0.5, 0.5, 1.0), (32, 24, 5))
    _, order, start = OPS.group_rows(key)
    rows = torch.randn(140, 4, generator=seeded(1))
    places = sites((4, 6, 7), 0.4, 2, 0)
    found = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
    features = torch.randn(len(places), 5, generator=seeded(2))
    weight = torch.randn(27, 5, 6, generator=seeded(3))
    slope = torch.randn(len(found.target), 6, generator=seeded(4))
    table = places.submanifold((3, 3, 3)).table
    triple = (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1), False
    one = torch.ones(len(start) - 1, 4)
    ones = torch.ones(4)
    source = OPS.reduce_rows(rows, order, start, 2, True)[1]
    return {
        "voxel_keys": (xyz, offsets, RANGE_M[:3], (0.5, 0.5, 1.0), (32, 24, 5)),
        "group_rows": (key,),
        "hard_voxels": (key, offsets, (32, 24, 5), 3, 20),
        "pad_rows": (rows.detach().requires_grad_(), order[:3], torch.tensor([0, 1, 3]), 4),
        "reduce_rows": (rows.requires_grad_(), order, start, 1, False),
        "reduce_rows.max": (rows, order, start, 2, True),
        "spread_rows": (one, order, start, source, 140, 2),
        "sort_sites": (places.index.flip(0), (4, 6, 7), 2),
        "submanifold_table": (places.index, (4, 6, 7), (3, 3, 3), (1, 1, 1)),
        "strided_map": (places.index, 2, (4, 6, 7), (2, 3, 4), *triple),
        "strided_map_bits": (places.index, 2, (4, 6, 7), (2, 3, 4), *triple),
        "turn_table": (found.table, len(places)),
        "sparse_conv": (
            features.requires_grad_(), weight.requires_grad_(), found.table, found.back, False,
        ),
        "sparse_conv.mirrored": (features, weight, table, None, True),
        "sparse_conv_affine": (
            features.detach(), weight.detach(), table, torch.ones(6), torch.ones(len(places), 6),
            True,
        ),
        "norm_rows": (rows, ones, ones, ones, ones, rows.detach(), 1e-3, True),
        "norm_rows_gradient": (
            slope, slope, slope, torch.ones(6), torch.ones(6), torch.ones(6), 1e-3, True, True,
        ),
        "sparse_conv_weight_gradient": (features.detach(), slope, found.table),
    }  # fmt: skip


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    """Schema, fake kernel, registration of the gradient, and tracing with dynamic sizes."""
    op = getattr(OPS, name.partition(".")[0]).default
    torch.library.opcheck(op, samples()[name])


def test_every_op_here_is_checked() -> None:
    mine = {name.partition(".")[0] for name in samples()}
    modules = (
        "voxel_keys",
        "group_rows",
        "hard_voxels",
        "pad_rows",
        "reduce_rows",
        "sparse_maps",
        "sparse_conv",
        "norm_rows",
    )
    text = "".join((ROOT / "ops" / "perception3d_ops" / f"{m}.py").read_text() for m in modules)
    assert set(re.findall(r'define\(\s*f?"(\w+)', text)) == mine


def test_strided_convolutions_compile_with_their_gradients() -> None:
    """Chained, and back to the inputs' sites: sizes that are data reach every op."""

    def chain(features: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        places = SparseSites(index, (6, 9, 9), 2)
        first = places.strided((3, 3, 3), (2, 2, 2), (1, 1, 1))
        second = first.target.strided((3, 3, 3), (1, 1, 1), (0, 0, 0))
        out = sparse_conv(sparse_conv(features, weight, first), weight, second)
        return sparse_conv(out, weight, second.inverse())

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    with torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True
    ):
        compiled = torch.compile(chain, fullgraph=True, dynamic=True, backend=counter)
        for seed in range(3):
            places = sites((6, 9, 9), 0.3, 2, seed)
            features = torch.randn(len(places), 4, generator=seeded(seed), requires_grad=True)
            weight = torch.randn(27, 4, 4, generator=seeded(6), requires_grad=True)
            inputs = features, weight
            got = torch.autograd.grad(compiled(*inputs, places.index).sum(), inputs)
            want = torch.autograd.grad(chain(*inputs, places.index).sum(), inputs)
            for one, other in zip(got, want):
                torch.testing.assert_close(one, other)
    assert counter.frame_count == 1


def test_voxelization_and_convolution_compile_without_breaks() -> None:
    xyz, offsets = cloud([300, 200], 3)
    found = sites((4, 9, 9), 0.5, 2, 1).submanifold((3, 3, 3))

    def points(xyz: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        hard = hard_voxels(
            xyz, offsets, range_m=RANGE_M, cell_m=(0.5, 0.5, 1), max_points=3, max_voxels=100
        )
        dynamic = dynamic_voxels(xyz, offsets, range_m=RANGE_M, cell_m=(0.5, 0.5, 1))
        return hard.index, hard.point, dynamic.reduce(xyz.nan_to_num(), "mean")

    def convolve(features: Tensor, weight: Tensor) -> Tensor:
        return torch.relu(sparse_conv(features, weight, found))

    compiled = torch.compile(points, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        for got, want in zip(compiled(xyz, offsets), points(xyz, offsets)):
            assert torch.equal(got, want)
    features = torch.randn(len(found.source), 4, generator=seeded(5), requires_grad=True)
    weight = torch.randn(27, 4, 8, generator=seeded(6), requires_grad=True)
    out = torch.compile(convolve, fullgraph=True, backend="aot_eager")(features, weight)
    out.sum().backward()
    got_grads = features.grad, weight.grad
    features.grad = weight.grad = None
    convolve(features, weight).sum().backward()
    assert torch.equal(out, convolve(features, weight))
    for got, again in zip(got_grads, (features.grad, weight.grad)):
        assert got is not None and again is not None and torch.equal(got, again)


def test_meta_tensors_give_shapes() -> None:
    out = OPS.sparse_conv(
        torch.empty(7, 3, device="meta"), torch.empty(27, 3, 5, device="meta"),
        torch.empty(27, 9, dtype=torch.int32, device="meta"), None, False,
    )  # fmt: skip
    assert out.shape == (9, 5) and out.device.type == "meta"


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | variables
    )


@pytest.mark.slow
def test_the_twin_serves_when_asked_for() -> None:
    code = "from perception3d_ops import library; print(library.COMPILED)"
    done = run(code, PERCEPTION3D_KERNELS="twin")
    assert done.stdout.strip() == "False" and done.stderr == ""


@pytest.mark.slow
def test_one_warning_says_what_is_slower_and_how_to_build(tmp_path: Path) -> None:
    package = tmp_path / "perception3d_ops"
    package.mkdir()
    for path in Path(library.__file__).parent.glob("*.py"):
        (package / path.name).write_text(path.read_text())
    code = (
        "import torch, perception3d_ops.library, perception3d_ops.hard_voxels as h;"
        "v = h.hard_voxels(torch.zeros(3, 3), torch.tensor([0, 3]), range_m=(-1,) * 3 + (1,) * 3,"
        "cell_m=(1,) * 3, max_points=2, max_voxels=1); print(len(v.point), h.__file__)"
    )
    done = run(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.split() == ["2", str(package / "hard_voxels.py")], done.stderr
    assert done.stderr.count("Warning") == 1 and "they were not built" in done.stderr
    assert "--no-build-isolation" in done.stderr
    (package / "_C.abi3.so").write_bytes(b"no library")
    done = run(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.split()[0] == "2" and "_C.abi3.so does not load" in done.stderr


def processor_has(isa: str) -> bool:
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    return isa == "base" or {"avx2": "avx2", "avx512": "avx512f"}[isa] in flags


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(isa: str) -> None:
    """Sums are made in other orders, so only rounding differs."""
    if not processor_has(isa):
        pytest.skip(f"this processor has no {isa}")
    code = """
import torch
from tests.ops.conv_inputs import MAPS, all_results, tensors_for
from tests.ops.op_inputs import sites
from perception3d_ops.sparse_conv import sparse_conv_twin
from perception3d_ops.sparse_sites import SparseSites
for channels in ((5, 16), (64, 40), (33, 1)):
    for kind in ("submanifold 3", "strided 3 2 1"):
        found = MAPS[kind](sites((5, 30, 31), 0.4, 2, 1))
        parts = tensors_for(found, channels)
        wide = [t.double().requires_grad_() for t in parts[:2]]
        out = sparse_conv_twin(*wide, found.table, found.back, False)
        out.backward(parts[2].double())
        for got, want in zip(all_results(found, *parts), (out, wide[0].grad, wide[1].grad)):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=3e-4)
print("equal")
"""
    done = run(code, PERCEPTION3D_ISA=isa, PYTHONPATH=str(ROOT))
    assert done.stdout.strip() == "equal", done.stderr
