"""A picture in pixel coordinates: a uint8 raster below, anti-aliased lines and text above.

Matplotlib's Agg renderer draws the vectors through its object interface: no display, no pyplot, no
global state. Pixel coordinates are (u, v) = (column, row); (0, 0) is the first pixel's top left
corner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = Sequence[float]
Pixel = Sequence[float] | NDArray[np.float64]
Rect = tuple[float, float, float, float]
_DPI = 100.0


def _rgba(color: Color, alpha: float) -> tuple[float, float, float, float]:
    red, green, blue = (float(c) / 255.0 for c in color[:3])
    return red, green, blue, alpha


def _to_points(px: float) -> float:
    """Convert pixels to typographic points at the canvas's resolution (line widths, font sizes)."""
    return px * 72.0 / _DPI


def text_width(text: str, size_px: float, *, bold: bool = False) -> float:
    """Measure a line of text as :meth:`Canvas.text` writes it, in pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size_px)
    # Text paths count in points of 1/72 inch at any resolution: with the size in pixels, so is the
    # width.
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0])


class Canvas:
    """Draw over an image with sub-pixel accuracy, then read the result back with :meth:`rgb`.

    Args:
        image: (H, W, 3) uint8 RGB; copied.

    Raises:
        ValueError: When the image has another shape or type.
        ImportError: When matplotlib is not installed.
    """

    def __init__(self, image: NDArray[np.uint8]) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image has shape {image.shape} and type {image.dtype}; "
                "give an RGB image of shape (H, W, 3) and type uint8"
            )
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                f"pictures need matplotlib ({error}); pip install 'perception3d[view]' brings it"
            ) from error

        self.height, self.width = int(image.shape[0]), int(image.shape[1])
        figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self._agg = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set_axis_off()
        self._axes.imshow(
            image, extent=(0, self.width, self.height, 0), interpolation="nearest", aspect="auto"
        )
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(self.height, 0)
        self._order = 2.0

    def _add(self, artist: Any, clip: Rect | None) -> None:
        from matplotlib.patches import Rectangle

        # One zorder a call: what is drawn later lies above, whatever kind of artist it is.
        self._order += 1.0
        artist.set_zorder(self._order)
        if clip is not None:
            left, top, right, bottom = clip
            patch = Rectangle((left, top), right - left, bottom - top)
            patch.set_transform(self._axes.transData)
            artist.set_clip_path(patch)

    def lines(
        self,
        segments_px: NDArray[np.floating[Any]],
        color: Color,
        *,
        width_px: float = 1.5,
        alpha: float = 1.0,
        dashed: bool = False,
        casing: float = 0.0,
        clip: Rect | None = None,
    ) -> None:
        """Draw (S, 2, 2) segments, end points (u, v), clipped to (left, top, right, bottom).

        ``casing`` > 0 is the opacity of a dark border, which keeps lines legible over photographs.
        """
        if len(segments_px) == 0:
            return
        if casing > 0:
            self.lines(segments_px, (0, 0, 0), width_px=width_px + 1.8, alpha=casing, clip=clip)
        from matplotlib.collections import LineCollection

        artist = LineCollection(
            list(np.asarray(segments_px, dtype=np.float64)),
            colors=[_rgba(color, alpha)],
            linewidths=_to_points(width_px),
            linestyles=[(0, (3.0, 2.2))] if dashed else "solid",
            capstyle="butt" if dashed else "round",
        )
        self._axes.add_collection(artist, autolim=False)
        self._add(artist, clip)

    def polygon(
        self,
        vertices_px: NDArray[np.floating[Any]],
        *,
        fill: Color | None = None,
        fill_alpha: float = 1.0,
        edge: Color | None = None,
        edge_alpha: float = 1.0,
        width_px: float = 1.5,
        dashed: bool = False,
        clip: Rect | None = None,
    ) -> None:
        """Draw one closed polygon of (P, 2) vertices (u, v); fewer than three draw nothing."""
        if len(vertices_px) < 3:
            return
        from matplotlib.patches import Polygon

        artist = Polygon(
            np.asarray(vertices_px, dtype=np.float64),
            closed=True,
            facecolor="none" if fill is None else _rgba(fill, fill_alpha),
            edgecolor="none" if edge is None else _rgba(edge, edge_alpha),
            linewidth=_to_points(width_px) if edge is not None else 0.0,
            linestyle=(0, (3.0, 2.2)) if dashed else "solid",
            joinstyle="round",
        )
        self._axes.add_patch(artist)
        self._add(artist, clip)

    def circle(
        self,
        center_px: Pixel,
        radius_px: float,
        color: Color,
        *,
        width_px: float = 1.0,
        alpha: float = 1.0,
        filled: bool = False,
        clip: Rect | None = None,
    ) -> None:
        """Draw a circle (an outline, or a disc when ``filled``)."""
        from matplotlib.patches import Circle

        artist = Circle(
            (float(center_px[0]), float(center_px[1])),
            radius_px,
            fill=filled,
            facecolor=_rgba(color, alpha) if filled else "none",
            edgecolor=_rgba(color, alpha),
            linewidth=0.0 if filled else _to_points(width_px),
        )
        self._axes.add_patch(artist)
        self._add(artist, clip)

    def arrow(
        self,
        tail_px: Pixel,
        tip_px: Pixel,
        color: Color,
        *,
        width_px: float = 1.6,
        head_px: float = 7.0,
        alpha: float = 1.0,
        clip: Rect | None = None,
    ) -> None:
        """Draw a line with a filled head at the tip; shorter than a pixel draws nothing."""
        tail, tip = np.asarray(tail_px, dtype=np.float64), np.asarray(tip_px, dtype=np.float64)
        length = float(np.linalg.norm(tip - tail))
        if length < 1.0:
            return
        along = (tip - tail) / length
        across = np.array([-along[1], along[0]])
        head = min(head_px, length)
        neck = tip - along * head
        self.lines(np.stack([tail, neck])[None], color, width_px=width_px, alpha=alpha, clip=clip)
        corners = np.stack([tip, neck + across * head * 0.42, neck - across * head * 0.42])
        self.polygon(corners, fill=color, fill_alpha=alpha, clip=clip)

    def text(
        self,
        position_px: Pixel,
        text: str,
        color: Color,
        *,
        size_px: float = 12.0,
        anchor: str = "left",
        vertical: str = "center",
        bold: bool = False,
        mono: bool = False,
        background: Color | None = None,
        background_alpha: float = 0.8,
        clip: Rect | None = None,
    ) -> None:
        """Write text; ``anchor`` left, center or right, ``vertical`` top, center or bottom."""
        artist = self._axes.text(
            float(position_px[0]),
            float(position_px[1]),
            text.replace("$", r"\$"),
            color=_rgba(color, 1.0),
            fontsize=_to_points(size_px),
            fontweight="bold" if bold else "normal",
            fontfamily="DejaVu Sans Mono" if mono else "DejaVu Sans",
            horizontalalignment=anchor,
            verticalalignment=vertical,
        )
        if background is not None:
            artist.set_bbox(
                {
                    "boxstyle": "square,pad=0.18",
                    "facecolor": _rgba(background, background_alpha),
                    "edgecolor": "none",
                }
            )
        artist.set_clip_on(True)
        self._add(artist, clip)

    def rgb(self) -> NDArray[np.uint8]:
        """Render: (H, W, 3) uint8 RGB."""
        self._agg.draw()
        rgba = np.asarray(self._agg.buffer_rgba())
        return np.ascontiguousarray(rgba[..., :3])


def write_image(
    path: str | Path, image: NDArray[np.uint8], *, quality: int = 90, png_level: int = 3
) -> Path:
    """Write an (H, W, 3) uint8 RGB image as .png or .jpg, whole or not at all; return its path.

    Raises:
        ValueError: When the file name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"cannot write a picture named {path.name}; end the name in .png or .jpg")
    return write_bytes(
        path, encode_image(image, path.suffix.lower(), quality=quality, png_level=png_level)
    )


def encode_image(
    image: NDArray[np.uint8], suffix: str, *, quality: int = 90, png_level: int = 3
) -> bytes:
    """Encode an (H, W, 3) uint8 RGB image as the bytes of a ".png" or ".jpg" file.

    A fourth channel is the opacity of a ".png".

    Args:
        image: The image.
        suffix: Kind of file.
        quality: Of JPEG, 1 to 100.
        png_level: Effort of PNG, 0 to 9; high levels take long on photographs.
    """
    import cv2

    if suffix == ".png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, png_level]
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    swapped = image[..., [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(swapped), options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as {suffix}")
    return bytes(data)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file under a temporary name beside the target, then move it there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
