from __future__ import annotations

import numpy as np
import pytest
import torch

from perception3d.datasets import EpochSampler, FrameDataset, SampleKey, class_balanced_repeats
from perception3d.structures import SE3, Frame


def keys(sampler: EpochSampler, epoch: int, start: int = 0) -> list[SampleKey]:
    sampler.set_epoch(epoch, start=start)
    out = list(sampler)
    assert len(out) == len(sampler)
    return out


def test_an_epoch_holds_every_frame_once_in_its_own_order() -> None:
    sampler = EpochSampler(50, seed=7)
    first, second = keys(sampler, 0), keys(sampler, 1)
    assert sorted(k.index for k in first) == list(range(50)) == [k.position for k in first]
    assert [k.index for k in first] != [k.index for k in second]
    assert keys(EpochSampler(50, seed=7), 1) == second
    assert [k.index for k in keys(EpochSampler(50, seed=8), 1)] != [k.index for k in second]
    assert {k.epoch for k in second} == {1}
    assert [k.index for k in keys(EpochSampler(5, shuffle=False), 3)] == [0, 1, 2, 3, 4]


def test_going_on_from_a_position() -> None:
    whole = keys(EpochSampler(50, seed=1), 4)
    assert keys(EpochSampler(50, seed=1), 4, start=13) == whole[13:]
    assert keys(EpochSampler(50, seed=1), 4, start=50) == []


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_an_epoch(world_size: int) -> None:
    whole = keys(EpochSampler(50, seed=1), 2)
    parts = [
        keys(EpochSampler(50, seed=1, rank=rank, world_size=world_size), 2)
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    together = [key for step in zip(*parts) for key in step]
    assert together[:50] == whole
    # What fills the last step is the beginning again, with random numbers of its own.
    assert [k.index for k in together[50:]] == [k.index for k in whole[: len(together) - 50]]
    assert len({k.position for k in together}) == len(together)


def test_repeats() -> None:
    repeats = np.array([2, 0, 1], np.int64)
    assert sorted(k.index for k in keys(EpochSampler(3, repeats=repeats), 0)) == [0, 0, 2]
    with pytest.raises(ValueError, match="repeats must be 4 counts"):
        EpochSampler(4, repeats=repeats)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="no frame to draw from"):
        EpochSampler(0)
    with pytest.raises(ValueError, match="rank 2 is outside a world of 2"):
        EpochSampler(5, rank=2, world_size=2)


def test_class_balance() -> None:
    counts = np.zeros((1000, 10), np.int64)
    counts[:, 0] = 3  # in every frame
    counts[:100, 1] = 1  # in a tenth
    counts[:10, 2] = 1  # rare; seven classes are absent
    repeats = class_balanced_repeats(counts, seed=5)
    assert np.array_equal(repeats, class_balanced_repeats(counts, seed=5))
    # By hand: the sum over classes is 1110, each of ten classes gets 111.
    assert repeats.sum() == 3 * 111
    assert repeats[:10].sum() == pytest.approx(111 + 11 + 1, abs=12)
    with pytest.raises(ValueError, match="no frame holds a box"):
        class_balanced_repeats(counts * 0)


class Frames:
    def __len__(self) -> int:
        return 9

    def __getitem__(self, number: int) -> Frame:
        return Frame(str(number), "log", number, SE3.identity(), SE3.identity())


def noisy(frame: Frame, rng: np.random.Generator) -> Frame:
    return Frame(frame.token, "log", int(rng.integers(1 << 60)), SE3.identity(), SE3.identity())


def test_dataset_has_no_state() -> None:
    dataset = FrameDataset(Frames(), noisy, seed=3)
    key = SampleKey(4, 2, 17)
    first = dataset[key].time_ns
    dataset[SampleKey(1, 0, 0)]
    assert dataset[key].time_ns == first and dataset[key].token == "4"
    assert dataset[SampleKey(4, 2, 18)].time_ns != first
    assert dataset[SampleKey(4, 3, 17)].time_ns != first
    assert FrameDataset(Frames(), noisy, seed=4)[key].time_ns != first
    assert dataset[5].token == "5" and dataset[5].time_ns == dataset[5].time_ns
    assert len(dataset) == 9 and FrameDataset(Frames())[2].time_ns == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads of BLAS are idle
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int) -> None:
    sampler = EpochSampler(9, seed=1)
    loader = torch.utils.data.DataLoader(
        FrameDataset(Frames(), noisy, seed=3), batch_size=2, sampler=sampler,
        collate_fn=lambda frames: [(f.token, f.time_ns) for f in frames], num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    got = [item for batch in loader for item in batch]
    dataset = FrameDataset(Frames(), noisy, seed=3)
    assert got == [(dataset[key].token, dataset[key].time_ns) for key in sampler]
