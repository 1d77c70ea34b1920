"""Voxel encoder, sparse encoder and SECOND: sizes, empty samples, training, weights, errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from perception3d_ops.sparse_sites import SparseSites
from torch import Tensor, nn

from perception3d.backbones.second import SECOND
from perception3d.backbones.voxels import SparseEncoder, VoxelEncoder
from perception3d.engine.checkpoints import (
    KERNELS,
    PUBLISHED,
    load_published,
    load_weights,
    read_weights,
    save_weights,
    state_of_pickle,
    write_weights,
)
from perception3d.engine.key_tables import CMT_KEYS
from perception3d.models.lidar_branch import LidarBranch, pillar_branch, voxel_branch
from perception3d.structures import BEVGrid, SparseVoxels
from tests.ops.op_inputs import sites

GRID = BEVGrid((-8.0, 8.0), (-6.4, 6.4), (-2.0, 2.0), 0.4)


def small_branch(seed: int = 0, **changes: object) -> LidarBranch:
    torch.manual_seed(seed)
    sizes = {"widths": (4, 6, 8), "blocks": 1, "out_channels": 6, "height_m": 0.25, "natural": True,
             "bev_widths": (8, 12), "bev_layers": (1, 1), "neck_channels": 6}  # fmt: skip
    return voxel_branch(GRID, **(sizes | changes))  # type: ignore[arg-type]


def cloud(counts: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(sum(counts), 5, generator=generator)
    points = points * torch.tensor([16.0, 12.8, 4.0, 255.0, 0.5]) - torch.tensor(
        [8.0, 6.4, 2.0, 0.0, 0.0]
    )
    return points, torch.tensor([0, *counts]).cumsum(0)


def test_features_are_means_at_sorted_places() -> None:
    points = torch.tensor(
        [
            [1.0, 1.0, 0.1, 10.0, 0.0], [-7.9, -6.3, -1.9, 1.0, 0.1], [1.1, 1.1, 0.2, 30.0, 0.5],
            [1.1, 1.1, 0.2, 99.0, 9.0], [9.0, 0.0, 0.0, 5.0, 0.0], [torch.nan, 0.0, 0.0, 5.0, 0.0],
        ]
    )  # fmt: skip
    encoder = VoxelEncoder(grid=GRID, height_m=0.5, max_points=2)
    voxels = encoder(points, torch.tensor([0, 0, 6]))
    assert voxels.sites.shape == (9, 32, 40) and voxels.sites.batch_size == 2
    assert voxels.sites.index.tolist() == [[1, 0, 0, 0], [1, 4, 18, 22]]
    torch.testing.assert_close(voxels.features[0], points[1])
    torch.testing.assert_close(voxels.features[1], torch.tensor([1.05, 1.05, 0.15, 20.0, 0.25]))
    assert voxels.grid == GRID
    scaled = VoxelEncoder(grid=GRID, height_m=0.5, max_points=2, units=(2, 2, 1, 10, 1))
    again = scaled(points, torch.tensor([0, 0, 6]))
    torch.testing.assert_close(again.features[1], torch.tensor([0.525, 0.525, 0.15, 2.0, 0.25]))


def test_caps_differ_between_training_and_evaluation() -> None:
    encoder = VoxelEncoder(grid=GRID, height_m=0.5, max_voxels=(7, 9))
    points, offsets = cloud([300, 4, 300])
    for training, cap in ((True, 7), (False, 9)):
        voxels = encoder.train(training)(points, offsets)
        counts = voxels.sites.index[:, 0].bincount(minlength=3).tolist()
        assert counts == [cap, 4, cap]


def test_published_sizes() -> None:
    grid = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-5.0, 3.0), 0.075)
    with torch.device("meta"):
        branch = voxel_branch(grid)
    counted = {
        name: sum(p.numel() for p in part.parameters()) for name, part in branch.named_children()
    }
    assert counted == {"encoder": 0, "middle": 2_694_352, "backbone": 4_280_832, "neck": 295_936}
    assert branch.encoder.cells_z == 41 and branch.encoder.max_points == 10
    assert branch.encoder.max_voxels == (120_000, 160_000)
    assert branch.middle is not None and branch.middle.channels == 256
    assert branch.channels == 512 and (branch.grid.ny, branch.grid.nx) == (180, 180)
    strided = {
        name: (module.reach.kernel, module.reach.stride, module.reach.padding)
        for name, module in branch.middle.named_modules()
        if hasattr(module, "reach") and not module.reach.submanifold
    }
    assert strided == {
        "stages.1.2.conv": ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        "stages.2.2.conv": ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        "stages.3.2.conv": ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
        "output.conv": ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    }


@torch.no_grad()
def test_a_batch_equals_its_samples_one_by_one() -> None:
    branch = small_branch().eval()
    points, offsets = cloud([400, 0, 250])
    together = branch(points, offsets)
    assert together.grid == GRID.stride(4) and together.data.shape == (3, 12, 8, 10)
    for sample in range(3):
        own = points[offsets[sample] : offsets[sample + 1]]
        alone = branch(own, torch.tensor([0, len(own)]))
        torch.testing.assert_close(alone.data[0], together.data[sample], rtol=1e-4, atol=1e-5)
    assert branch.middle is not None
    bev = branch.middle(branch.encoder(points, offsets)).data
    assert (bev[1] == 0).all() and (bev[0] != 0).any() and (bev[2] != 0).any()


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [0, 300]], ids=str)
def test_hardly_any_point(counts: list[int]) -> None:
    branch = small_branch().train()
    out = branch(*cloud(counts))
    out.data.square().sum().backward()
    assert out.data.isfinite().all()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in branch.buffers())


def test_a_step_lowers_the_loss() -> None:
    branch = small_branch().train()
    points, offsets = cloud([400, 250])
    wanted = torch.rand(2, 12, 8, 10, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(branch.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (branch(points, offsets).data - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0] and losses[-1] < 0.8 * losses[0], losses


def test_the_encoder_keeps_float32_unless_told_otherwise() -> None:
    points, offsets = cloud([300])
    branch = small_branch().eval()
    assert branch.middle is not None
    voxels = branch.encoder(points, offsets)
    exact = branch.middle(voxels).data
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(branch.middle(voxels).data, exact)
        branch.middle.mixed = True
        mixed = branch.middle(voxels).data
    assert not torch.equal(mixed.float(), exact)
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)


def published(branch: LidarBranch, *, old: bool) -> dict[str, Tensor]:
    whole = nn.ModuleDict({"lidar": branch})
    state = {CMT_KEYS.to_published(name): value for name, value in whole.state_dict().items()}
    if old:
        state = {
            k: v.permute(1, 2, 3, 4, 0).contiguous() if v.dim() == 5 else v
            for k, v in state.items()
        }
    return state


@pytest.mark.parametrize("old", [False, True])
def test_published_names_and_layouts_come_and_go(old: bool, tmp_path: Path) -> None:
    branch, other = small_branch(1, natural=False), small_branch(2, natural=False)
    state = published(branch, old=old)
    assert "pts_middle_encoder.encoder_layers.encoder_layer2.1.0.weight" in state
    assert "pts_backbone.blocks.1.3.weight" in state and "pts_neck.deblocks.1.0.weight" in state
    load_published(other, state, prefix="lidar.")
    for name, value in branch.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    # The same by way of a file, which is converted without a model at hand.
    model, third = (
        nn.ModuleDict({"lidar": branch}),
        nn.ModuleDict({"lidar": small_branch(3, natural=False)}),
    )
    torch.save(state, tmp_path / "published.pth")
    ours = CMT_KEYS.translate(state_of_pickle(tmp_path / "published.pth"))
    notes = {KERNELS: PUBLISHED}
    write_weights(ours, tmp_path / "ours.safetensors", model_name="ModuleDict", notes=notes)
    load_weights(third, tmp_path / "ours.safetensors")
    save_weights(third, tmp_path / "again.safetensors")
    assert "kernels" not in read_weights(tmp_path / "again.safetensors")[1]
    load_weights(third, tmp_path / "again.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(third.state_dict()[name], value), name


def test_kernels_that_fit_both_layouts_are_asked_about(tmp_path: Path) -> None:
    first = {"widths": (3, 3), "out_channels": 4, "natural": False}
    branch, other = small_branch(1, **first), small_branch(2, **first)
    state = published(branch, old=False)
    with pytest.raises(ValueError, match=r"stages.1.0.conv1.weight of shape .* say which"):
        load_published(other, state, prefix="lidar.")
    load_published(other, state, prefix="lidar.", kernels="spconv2")
    save_weights(branch, tmp_path / "own.safetensors")  # our files leave nothing open
    load_weights(other, tmp_path / "own.safetensors")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in branch.state_dict().items())


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"whole number of voxels high; found 0\.3 m"):
        VoxelEncoder(grid=GRID, height_m=0.3)
    with pytest.raises(ValueError, match=r"whole number of voxels high; found 0\.0 m"):
        VoxelEncoder(grid=GRID, height_m=0.0)
    with pytest.raises(ValueError, match="units must be 5 numbers; found 3"):
        VoxelEncoder(grid=GRID, units=(1, 1, 1))
    with pytest.raises(ValueError, match="5 layers are too few for 4 stages"):
        SparseEncoder(cells_z=5)
    with pytest.raises(ValueError, match="found 2 widths, 1 layers, 2 steps"):
        SECOND(in_channels=4, widths=(4, 8), layers=(1,), steps=(1, 2))
    with pytest.raises(ValueError, match="stride 4 does not divide a grid of 30 x 40 cells"):
        voxel_branch(BEVGrid((-8.0, 8.0), (-6.0, 6.0), (-2.0, 2.0), 0.4), widths=(4, 4, 4))
    with pytest.raises(ValueError, match="built for 41 layers; found 17"):
        SparseEncoder(cells_z=41)(VoxelEncoder(grid=GRID, height_m=0.25)(*cloud([9])))
    branch, pillars = small_branch(), pillar_branch(GRID, widths=(8,) * 5, out_stages=(0, 1))
    with pytest.raises(ValueError, match="the canvas has 6 channels, the backbone takes 8"):
        LidarBranch(
            encoder=branch.encoder, middle=branch.middle,
            backbone=pillars.backbone, neck=pillars.neck,
        )  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("spconv") is None, reason="spconv is not installed")
@torch.no_grad()
def test_spconv_agrees_on_the_whole_branch() -> None:
    own, other = small_branch().eval(), small_branch(1, backend="spconv").eval()
    other.load_state_dict(own.state_dict())
    points, offsets = cloud([900, 0, 250])
    torch.testing.assert_close(
        other(points, offsets).data, own(points, offsets).data, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_one_compiled_graph_serves_clouds_of_any_size(training: bool) -> None:
    """Maps, norms and all: the numbers of sites are data and break no graph."""
    torch.manual_seed(0)
    encoder = SparseEncoder(cells_z=17, in_channels=3, widths=(4, 6, 8), blocks=1).train(training)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    shape = (17, 40, 40)
    grid = BEVGrid((-8.0, 8.0), (-8.0, 8.0), (-2.0, 2.0), 0.4)

    def encode(features: Tensor, index: Tensor) -> Tensor:
        return encoder(SparseVoxels(features, SparseSites(index, shape, 2), grid)).data

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    settings = {"capture_dynamic_output_shape_ops": True, "capture_scalar_outputs": True}
    with torch._dynamo.config.patch(**settings), torch.set_grad_enabled(training):
        compiled = torch.compile(encode, fullgraph=True, backend=counter)
        for seed, share in enumerate((0.02, 0.05, 0.01)):
            index = sites(shape, share, 2, seed).index
            features = torch.randn(len(index), 3)
            for tensor in (index, features):
                torch._dynamo.mark_dynamic(tensor, 0)
            results = []
            for way in (compiled, encode):
                encoder.load_state_dict(state)
                inputs = features.clone().requires_grad_(training)
                torch._dynamo.mark_dynamic(inputs, 0)
                out = way(inputs, index)
                slopes = ()
                if training:
                    slopes = torch.autograd.grad(
                        out.square().sum(), (inputs, *encoder.parameters())
                    )
                results.append((out, *slopes, *map(torch.clone, encoder.buffers())))
            for got, want in zip(*results, strict=True):
                torch.testing.assert_close(got, want)
    assert counter.frame_count == 1
