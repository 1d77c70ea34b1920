"""Where labels stand, so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable

from perception3d.viewer.canvas import Rect


class LabelLayout:
    """Gives places to labels inside a rectangle; ask in order of importance.

    Args:
        bounds: Left, top, right, bottom; no label leaves it.
    """

    def __init__(self, bounds: Rect) -> None:
        self.bounds = bounds
        self._taken: list[Rect] = []

    def reserve(self, rect: Rect) -> None:
        """Keep labels out of a rectangle."""
        self._taken.append(rect)

    def place(
        self, width_px: float, height_px: float, corners_px: Iterable[tuple[float, float]]
    ) -> Rect | None:
        """Take the first of the wished places that is free.

        Args:
            width_px: Width of the label.
            height_px: Height of the label.
            corners_px: Wished top left corners, the best first; moved sideways into the bounds.

        Returns:
            The place, None when each of them leaves the bounds or meets an earlier label.
        """
        left, top, right, bottom = self.bounds
        for u, v in corners_px:
            u = min(max(u, left), right - width_px)
            rect = (u, v, u + width_px, v + height_px)
            inside = u >= left and v >= top and rect[3] <= bottom
            if inside and not any(_meet(rect, taken) for taken in self._taken):
                self._taken.append(rect)
                return rect
        return None


def _meet(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
