"""Triton kernels of sparse convolution without a GPU: interpreted, compiled, and their blocks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton", reason="Triton is not installed")

# Triton 3.9 says at the first compilation that it fuses products with sums; so does every kernel.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset")

CUDA = ("cuda:80", "cuda:90")


@pytest.mark.slow
def test_kernels_under_the_interpreter() -> None:
    """See triton_interpreter_cases.py; one that fails is named in the output."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/ops/triton_interpreter_cases.py"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 20


def ptx_of(
    kernel: Any, arch: str, types: dict[str, str], constants: dict[str, object], warps: int
) -> str:
    """Compile for a GPU that need not be there; pointers are aligned, as torch's are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    assert set(names) == set(types) | set(constants)
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if types.get(name, "").startswith("*")
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", int(arch.partition(":")[2]), 32)
    built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": 3})
    assert len(built.asm["cubin"]) > 1000
    text: str = built.asm["ptx"]
    return text


@pytest.mark.parametrize("arch", CUDA)
@pytest.mark.parametrize(
    ("dtype", "precision"), [("fp16", "tf32"), ("bf16", "tf32"), ("fp32", "tf32"), ("fp32", "ieee")]
)
def test_convolution_compiles_without_a_gpu(dtype: str, precision: str, arch: str) -> None:
    from perception3d_ops import sparse_conv_triton as kernels

    floats = ("features", "weight", "residual", "out")
    types = {
        **dict.fromkeys(floats, f"*{dtype}"), "shift": "*fp32", "table": "*i32", "order": "*i64",
        "tile_taps": "*i32", "tile_count": "*i32", "rows": "i32", "stride_tap": "i32",
        "stride_out": "i32",
    }  # fmt: skip
    constants = {
        "stride_in": 1, "IN": 64, "OUT": 64, "TAPS": 27, "TILE": 64 if precision == "ieee" else 128,
        "BLOCK_OUT": 64, "BLOCK_IN": 32 if dtype == "fp32" else 64, "PRECISION": precision,
        "MIRRORED": True, "SHIFTED": True, "ADDED": True, "RECTIFIED": True,
    }  # fmt: skip
    ptx = ptx_of(kernels._add_taps, arch, types, constants, 4)
    tensor_cores = {"cuda:80": "mma.sync", "cuda:90": "wgmma.mma_async"}[arch]
    assert (tensor_cores in ptx) is (precision != "ieee")
    # Rows are fetched while others are multiplied.
    assert "cp.async" in ptx


@pytest.mark.parametrize("arch", CUDA)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_weight_gradient_compiles_without_a_gpu(dtype: str, arch: str) -> None:
    from perception3d_ops import sparse_conv_triton as kernels

    types = {
        "features": f"*{dtype}", "gradient": f"*{dtype}", "sources": "*i32", "targets": "*i32",
        "counts": "*i32", "sums_out": "*fp32", "rows": "i32", "of_part": "i32",
    }  # fmt: skip
    blocks = {"BLOCK_IN": 64, "BLOCK_OUT": 64, "BLOCK_PAIRS": 32, "PRECISION": "tf32"}
    constants = {"IN": 60, "OUT": 64, "TAPS": 27, **blocks}
    ptx = ptx_of(kernels._add_outer_products, arch, types, constants, 4)
    assert ".entry _add_outer_products(" in ptx


@pytest.mark.parametrize("arch", CUDA)
def test_schedules_compile_without_a_gpu(arch: str) -> None:
    from perception3d_ops import sparse_tiles_triton as tiling

    table = {"table": "*i32", "rows": "i32"}
    tiles = {"tile_taps": "*i32", "tile_count": "*i32"}
    pairs = {"place": "*i32", "source": "*i32", "target": "*i32"}
    for name, types, constants in (
        ("_find_patterns", {"pattern": "*i32"}, {"TAPS": 27, "BITS": 63, "ROWS": 256}),
        ("_find_tile_taps", tiles, {"TAPS": 27, "ROWS": 128}),
        ("_list_pairs", pairs, {"ROWS": 256}),
    ):
        ptx = ptx_of(getattr(tiling, name), arch, {**table, **types}, constants, 4)
        assert f".entry {name}(" in ptx


def test_the_fastest_blocks_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from perception3d_ops import sparse_conv_triton as kernels
    from triton.runtime.errors import OutOfResources

    monkeypatch.setattr(kernels, "_fastest", {})
    choices = kernels._choices(128, False)
    assert len(choices) == len(set(choices)) == 4
    assert max(choice.columns for choice in kernels._choices(128, True)) == 64
    assert {choice.columns for choice in kernels._choices(3, False)} == {16}
    ran: list[kernels.Blocks] = []

    def run(blocks: kernels.Blocks) -> None:
        ran.append(blocks)
        if blocks == choices[3]:
            raise OutOfResources(1, 2, "shared memory")

    def time_ms(call: Callable[[], None]) -> float:
        call()
        return {0: 3.0, 1: 2.0, 2: 2.5, 3: 0.0}[choices.index(ran[-1])]

    key = (128, 128, torch.float16)
    assert kernels.fastest(key, choices, run, time_ms) == choices[1]
    assert kernels.fastest(key, choices, run, time_ms) == choices[1] and ran == choices


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_of_float32_follow_torch(precision: str) -> None:
    from perception3d_ops import sparse_conv_triton as kernels

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        want = ("ieee", True) if precision == "highest" else ("tf32", False)
        assert kernels._precision(torch.zeros(1)) == want
        assert kernels._precision(torch.zeros(1).half()) == ("tf32", False)
    finally:
        torch.set_float32_matmul_precision(before)
