"""The page in a real browser, where one is installed: it loads from disk, draws, obeys its keys."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from perception3d.structures import BEVGrid, MapRaster
from perception3d.viewer.colors import class_color
from perception3d.viewer.page import write_page

Make = Callable[..., Any]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]

# Runs after the page's own script and says on the console what each step led to.
DRIVER = """<script>
const say = (name, value) => console.log(`CHECK ${name}=${value}`);
const press = (key, target) => (target || document.body).dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const visible = () => tiles.filter(t => !t.tile.hidden).length;
say("start", `${state.view} ${state.frame} ${state.score} ${visible()}`);
press("ArrowRight"); say("right", state.frame);
press("ArrowLeft"); press("ArrowLeft"); say("left", state.frame);
press("ArrowRight", document.getElementById("score")); say("score slider", state.frame);
press("Home"); say("home", state.frame);
press(" "); say("space", Boolean(state.playing));
press(" "); say("space again", Boolean(state.playing));
press("2"); say("both", `${state.view} ${visible()}`);
press("m"); say("map", state.map);
press("m");
document.querySelector(".camera").click(); say("camera", `${state.camera} ${visible()}`);
press("c"); say("all cameras", state.camera);
press("1"); say("side", state.view);
const score = document.getElementById("score");
score.value = 0.5; score.dispatchEvent(new Event("input"));
say("shown", shown(DATA.frames[0].prediction).length);
const canvas = document.getElementById("bev");
const [[port]] = viewports(canvas.clientWidth, canvas.clientHeight);
const [u, v] = port.pixel(...DATA.frames[0].truth[0].at);
say("picked", pickBox(u, v) === DATA.frames[0].truth[0]);
say("overflow", document.documentElement.scrollHeight > window.innerHeight);
score.value = 0.2; score.dispatchEvent(new Event("input"));
</script>
</body>"""


def browse(page: Path, picture: Path, size: tuple[int, int], address: str = "") -> list[str]:
    """Open a page from disk, take its picture, return what was written on its console."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--enable-logging=stderr", "--virtual-time-budget=4000",
        f"--user-data-dir={picture.parent / 'profile'}", f"--window-size={size[0]},{size[1]}",
        f"--screenshot={picture}", page.as_uri() + address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    if not picture.is_file():
        pytest.skip(f"{BROWSER} takes no pictures here: {done.stderr[-300:]}")
    return re.findall(r"CONSOLE[^\]]*\] \"(.*)\", source:", done.stderr)


@pytest.fixture
def page(tmp_path: Path, make_frame: Make, make_boxes: Make, make_prediction: Make) -> Path:
    rng = np.random.default_rng(0)
    grid = BEVGrid((-60.0, 60.0), (-60.0, 60.0), (-5.0, 3.0), 1.0)
    road = torch.zeros(1, grid.ny, grid.nx, dtype=torch.bool)
    road[:, :, 54:66] = True
    frames = [
        make_frame(
            token=f"token{i}",
            boxes=make_boxes((2.0, 15.0, 0.3, 1.0, 2.0), (-6.0, 10.0 + i, 0.0)),
            points=[tuple(xyz) for xyz in rng.uniform((-50, -50, -2), (50, 50, 2), (3000, 3))],
            map=MapRaster(road, ("drivable_area",), grid),
            with_images=True,
        )
        for i in range(3)
    ]
    predicted = make_boxes((2.5, 15.0, 0.2), (-6.0, 11.0, 0.1), (9.0, -9.0, 1.0))
    predictions = {f.token: make_prediction(f, predicted, 0.9, 0.4, 0.2) for f in frames}
    path = tmp_path / "page.html"
    return write_page(
        path, frames, predictions, metrics="class AP", headline={"mAP": 0.5}, min_score=0.2
    )


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080)])
def test_the_page_loads_from_disk_and_draws(page: Path, size: tuple[int, int]) -> None:
    picture = page.with_name("page.png")
    assert browse(page, picture, size) == []
    image = cv2.imread(str(picture))[..., ::-1].astype(int)
    assert image.shape == (size[1], size[0], 3)
    orange = (np.abs(image - class_color(0, ("car",))) < 12).all(axis=2)
    middle = image.shape[1] * 60 // 100
    # Boxes in the view from above on the left and in the cameras on the right, in both halves.
    assert orange[150:, :middle].sum() > 100
    upper, lower = np.array_split(orange[150:, middle:], 2)
    assert upper.sum() > 100 and lower.sum() > 100
    assert image[150:-80].std() > 15


def test_keys_and_buttons_do_what_they_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", DRIVER), encoding="utf-8")
    lines = browse(page, page.with_name("keys.png"), (1366, 768))
    found = dict(line.removeprefix("CHECK ").split("=", 1) for line in lines)
    assert found == {
        "start": "side 0 0.2 8",  # Six in the strip, the front one twice above it.
        "right": "1",
        "left": "2",  # Around the end.
        "score slider": "2",  # Arrows on the slider are its own.
        "home": "0",
        "space": "true",
        "space again": "false",
        "both": "both 6",
        "map": "false",
        "camera": "0 7",
        "all cameras": "-1",
        "side": "side",
        "shown": "1",
        "picked": "true",
        "overflow": "false",
    }


def test_a_state_has_an_address(page: Path) -> None:
    pictures = [page.with_name(f"{name}.png") for name in ("first", "second", "map")]
    for picture, address in zip(
        pictures, ("#view=truth", "#view=prediction", "#view=truth&map=0"), strict=True
    ):
        assert browse(page, picture, (1000, 700), address) == []
    first, second, bare = (cv2.imread(str(picture)).astype(int) for picture in pictures)
    assert (first != second).any(axis=2).sum() > 500
    assert (first != bare).any(axis=2).sum() > 5000


def test_bare_frames_open_too(tmp_path: Path, make_frame: Make) -> None:
    path = write_page(tmp_path / "bare.html", [make_frame(), make_frame(token="second")])
    assert browse(path, tmp_path / "bare.png", (900, 700)) == []
