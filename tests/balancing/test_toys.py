"""The toys: their scores and statistics by hand, and the findings that hold for every seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perception3d.balancing.toys import sensors, tasks
from perception3d.balancing.toys.clues import Pair, accuracy, make_clues
from perception3d.balancing.toys.picture import draw
from perception3d.balancing.toys.street import (
    BOX_CHANNELS,
    SIZE,
    box_ap,
    box_loss,
    make_streets,
    map_iou,
    overlaps,
)
from perception3d.balancing.toys.table import claimed, error_of, gain, save
from tests.balancing.toys import seeded


def test_overlap_of_boxes_by_hand() -> None:
    a = torch.tensor([[[2.0, 2.0, 2.0, 2.0]]])
    b = torch.tensor([[[3.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0], [9.0, 9.0, 2.0, 2.0]]])
    torch.testing.assert_close(overlaps(a, b), torch.tensor([[[1 / 3, 1.0, 0.0]]]))


def test_perfect_answers_score_one_and_lose_next_to_nothing() -> None:
    streets = make_streets(20, seeded(0))
    found = torch.full((20, BOX_CHANNELS, SIZE, SIZE), -20.0)
    found[:, 1:] = 0
    for sample, one in streets.present.nonzero().tolist():
        x, y, *size = streets.box[sample, one].tolist()
        found[sample, 0, int(y), int(x)] = 20.0
        code = torch.tensor([x % 1, y % 1, *size])
        code[2:] = code[2:].log()
        found[sample, 1:, int(y), int(x)] = code
    assert box_ap(found, streets) == pytest.approx(1.0)
    assert box_loss(found, streets).item() == pytest.approx(0.0, abs=1e-4)
    assert map_iou(streets.road - 0.5, streets) == 1.0
    found[:, 1] += 100  # far off
    assert box_ap(found, streets) == 0.0


def test_a_false_box_before_a_true_one_halves_precision() -> None:
    streets = make_streets(1, seeded(3))
    found = torch.full((1, BOX_CHANNELS, SIZE, SIZE), -20.0)
    found[:, 1:] = 0
    boxes = streets.present[0].nonzero()[:, 0].tolist()
    x, y, *size = streets.box[0, boxes[0]].tolist()
    found[0, 0, int(y), int(x)] = 5.0
    found[0, 1:, int(y), int(x)] = torch.tensor([x % 1, y % 1, *torch.tensor(size).log()])
    found[0, 0, 15, 15] = 9.0  # a box of one cell in the corner, where no center can be
    assert box_ap(found, streets) == pytest.approx(0.5 / len(boxes))


def test_lidar_shows_nine_labels_in_ten_and_the_camera_the_rest() -> None:
    clues = make_clues(20_000, seeded(0), "rest")
    # Of lengths: three bits of +-2 beside noise of 0.3 in each of twelve readings.
    shown = clues.lidar.norm(dim=1) > 2.2
    assert shown.double().mean().item() == pytest.approx(0.9, abs=0.01)
    assert (clues.camera.norm(dim=1)[~shown] > 1.6).double().mean().item() > 0.99
    assert (clues.camera.norm(dim=1)[shown] > 1.9).double().mean().item() < 0.01


def test_gains_are_counted_by_seed() -> None:
    base, better = [0.1, 0.2, 0.3], [0.2, 0.31, 0.39]
    assert error_of([1.0, 2.0, 3.0]) == pytest.approx(1 / 3**0.5)
    assert gain(better, base)[0] == pytest.approx(0.1)
    assert gain(better, base)[1] == pytest.approx(0.01 / 3**0.5)
    assert claimed(better, base)
    assert not claimed([0.3, 0.1, 0.35], base)
    assert not claimed([0.9], [0.1])
    with pytest.raises(ValueError, match="found 3, 2"):
        gain(better, base[:2])


def test_results_are_written_with_their_command(tmp_path: Path) -> None:
    save(tmp_path / "toy.json", "python -m toy", 1.23, {"scores": {"sgd": [1.0]}})
    read = json.loads((tmp_path / "toy.json").read_text())
    assert read["command"] == "python -m toy"
    assert read["machine"]["seconds"] == 1.2
    assert read["scores"] == {"sgd": [1.0]}


def test_lengths_of_gradients_are_one_behind_the_balance_and_a_constant_cancels_in_adamw() -> None:
    """A constant factor is seen by SGD; AdamW divides it away."""
    known, unseen = sensors.samples(0, "all", 40)
    runs = {
        (name, optimizer): sensors.train(sensors.ARMS[name], optimizer, 0, known, unseen, 40)
        for name in ("none", "intra, mean", "camera x 4")
        for optimizer in ("sgd", "adamw")
    }
    for optimizer in ("sgd", "adamw"):
        even = runs["intra, mean", optimizer]
        assert even.after == pytest.approx([1.0] * 2, abs=1e-6)
        plain = runs["none", optimizer]
        assert plain.after == plain.before
        # All arms begin alike.
        assert even.before[0] == pytest.approx(plain.before[0], rel=0.2)
    adam = runs["none", "adamw"].before
    assert runs["camera x 4", "adamw"].before == pytest.approx(adam, rel=1e-3)
    with pytest.raises(ValueError, match="found 10 steps"):
        sensors.train(sensors.ARMS["none"], "sgd", 0, known, unseen, 10)
    assert runs["camera x 4", "sgd"].before != pytest.approx(runs["none", "sgd"].before, rel=1e-3)


def test_a_sensor_left_out_is_features_of_zero() -> None:
    torch.manual_seed(0)
    model = Pair(
        sensors.Balance(sensors.SENSORS, sensors.Times(1.0, 1.0)), sensors.ModalityDropout((0, 0))
    ).eval()
    clues = make_clues(50, seeded(1))
    other = make_clues(50, seeded(2))
    mixed = type(clues)(clues.camera, other.lidar, clues.label)
    assert torch.equal(model(clues, without="lidar"), model(mixed, without="lidar"))
    assert not torch.equal(model(clues), model(mixed))
    assert 0 <= accuracy(model, clues) <= 1


Scores = dict[str, tuple[float, float]]


@pytest.fixture(scope="module")
def tables() -> dict[str, Scores]:
    """One seed of the arms below, by optimiser; what is asserted held for five, with room."""
    arms = (*tasks.ALONE, tasks.PLAIN, "IMTL-G", "IMTL-G, mean length")
    found = {name: tasks.run(name, 1, tasks.STEPS, arms) for name in ("sgd", "adamw")}
    return {name: {arm: seeds[0] for arm, seeds in runs.items()} for name, runs in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_map_starves_in_a_plain_sum_and_boxes_do_not(
    tables: dict[str, Scores], optimizer: str
) -> None:
    runs = tables[optimizer]
    boxes, road = runs[tasks.PLAIN]
    assert road < 0.4 * runs["map alone"][1]
    assert boxes == pytest.approx(runs["boxes alone"][0], abs=0.05)


@pytest.mark.slow
def test_imtl_g_brings_the_map_back_under_adamw(tables: dict[str, Scores]) -> None:
    runs = tables["adamw"]
    boxes, road = runs["IMTL-G"]
    assert road == pytest.approx(runs["map alone"][1], abs=0.06)
    # What is given to the map is taken from the boxes.
    assert 0.6 * runs["boxes alone"][0] < boxes < runs["boxes alone"][0]


@pytest.mark.slow
def test_under_sgd_the_length_decides(tables: dict[str, Scores]) -> None:
    """IMTL-G gives both tasks about twice the shorter gradient: the trunk of SGD stands still."""
    runs = tables["sgd"]
    boxes, road = runs["IMTL-G"]
    assert road < 0.4 * runs["map alone"][1]
    assert boxes < 0.7 * runs["boxes alone"][0]
    boxes, road = runs["IMTL-G, mean length"]
    assert road > 0.7 * runs["map alone"][1]
    assert boxes > 0.5 * runs["boxes alone"][0]


@pytest.mark.slow
def test_intra_feeds_the_camera_under_sgd_and_little_changes_under_adamw() -> None:
    for seed in range(3):
        known, unseen = sensors.samples(seed, "all")
        probes = {
            (name, optimizer): sensors.train(
                sensors.ARMS[name], optimizer, seed, known, unseen
            ).camera_probe
            for name in (sensors.NONE, "intra, mean")
            for optimizer in ("sgd", "adamw")
        }
        assert probes["intra, mean", "sgd"] > probes[sensors.NONE, "sgd"] + 0.05
        assert abs(probes["intra, mean", "adamw"] - probes[sensors.NONE, "adamw"]) < 0.05


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = {"sgd": {"none": [[1.0, 0.5], [1.0, 0.25]], "intra": [[1.0, 1.0]] * 2}}
    assert draw(curves, 20, tmp_path / "toy.png").read_bytes()[:4] == b"\x89PNG"
