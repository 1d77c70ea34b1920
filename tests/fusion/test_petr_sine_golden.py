"""The published sine code of view, row and column against ours."""

from __future__ import annotations

import pytest

from perception3d.fusion.petr_sine import view_sine_code
from tests.golden_cases import golden, load_case


@pytest.mark.parametrize("name", golden("petr_sine3d"))
def test_golden_petr_sine3d(name: str) -> None:
    case = load_case(name)
    padded = case.inputs()["mask"].bool()
    case.check("sine", view_sine_code(padded, case.shape("sine")[2] // 3))
    case.finish()
