"""The loops of the Argoverse 2 evaluator, compiled. No fast mathematics: sums keep their order, so
that results equal the official ones to the last bit.

Rows are sorted by group (sweep, category) throughout; `begin` (G + 1,) are the groups' first rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


def _kernel(function: Any) -> Any:
    return njit(cache=True, fastmath=False, error_model="numpy", nogil=True)(function)


@_kernel
def in_range(box: Array, limit_m: float) -> Array:
    """(N,) bool: the centre (first three of (N, 10)) is strictly nearer than the limit."""
    near = np.empty(len(box), np.bool_)
    for i in range(len(box)):
        x, y, z = box[i, 0], box[i, 1], box[i, 2]
        near[i] = np.sqrt((x * x + y * y) + z * z) < limit_m
    return near


@_kernel
def cap(near: Array, order: Array, begin: Array, most: int) -> Array:
    """(N,) bool by row: among the first `most` rows in range of their group, in `order`."""
    kept = np.zeros(len(near), np.bool_)
    for group in range(len(begin) - 1):
        count = 0
        for place in range(begin[group], begin[group + 1]):
            row = order[place]
            if near[row]:
                count += 1
                if count > most:
                    break
                kept[row] = True
    return kept


@_kernel
def assign(
    box: Array,
    order: Array,
    begin: Array,
    kept: Array,
    truth_box: Array,
    truth_order: Array,
    truth_begin: Array,
    truth_kept: Array,
) -> tuple[Array, Array, Array]:
    """Each kept detection goes to the nearest kept object of its group, taken or not.

    Args:
        box, truth_box: (N, 10), (M, 10).
        order, truth_order: rows by group; detections best first, objects as they came.
        begin, truth_begin: (G + 1,) of the same groups.
        kept, truth_kept: (N,), (M,) bool by row.

    Returns:
        nearest: (N,) row of the object, -1 without one (the first among equally near).
        distance_m: (N,) to it.
        first: (N,) bool, the first in `order` that went to this object.
    """
    nearest = np.full(len(box), -1, np.int64)
    distance_m = np.full(len(box), np.inf)
    first = np.zeros(len(box), np.bool_)
    taken = np.zeros(len(truth_box), np.bool_)
    for group in range(len(begin) - 1):
        for place in range(begin[group], begin[group + 1]):
            row = order[place]
            if not kept[row]:
                continue
            best = np.inf
            found = -1
            for truth_place in range(truth_begin[group], truth_begin[group + 1]):
                other = truth_order[truth_place]
                if truth_kept[other]:
                    x = box[row, 0] - truth_box[other, 0]
                    y = box[row, 1] - truth_box[other, 1]
                    z = box[row, 2] - truth_box[other, 2]
                    away = np.sqrt((x * x + y * y) + z * z)
                    if away < best:
                        best = away
                        found = other
            nearest[row] = found
            distance_m[row] = best
            if found >= 0 and not taken[found]:
                taken[found] = True
                first[row] = True
    return nearest, distance_m, first


@_kernel
def column_distance(mask: Array, most: int) -> Array:
    """(H, W) uint8: cells to the nearest set one in the same column, at most `most` (< 255)."""
    height, width = mask.shape
    away = np.empty((height, width), np.uint8)
    zero, one, limit = np.uint8(0), np.uint8(1), np.uint8(most)  # bytes, so that rows vectorise
    for column in range(width):
        away[0, column] = zero if mask[0, column] else limit
    for row in range(1, height):
        above, here, is_set = away[row - 1], away[row], mask[row]
        for column in range(width):
            further = np.uint8(above[column] + one)
            if further > limit:
                further = limit
            if is_set[column]:
                further = zero
            here[column] = further
    for row in range(height - 2, -1, -1):
        below, here = away[row + 1], away[row]
        for column in range(width):
            further = np.uint8(below[column] + one)
            if further < here[column]:
                here[column] = further
    return away


@_kernel
def _dilated(away: Array, radius: int, row: int, column: int) -> bool:
    """Whether a set cell lies within `radius` cells; False outside the raster."""
    height, width = away.shape
    if row < 0 or row >= height or column < 0 or column >= width:
        return False
    for step in range(radius + 1):
        reach = radius * radius - step * step
        for side in (column - step, column + step):
            if 0 <= side < width:
                up = np.int64(away[row, side])
                if up * up <= reach:
                    return True
    return False


@_kernel
def cells_inside(away: Array, radius: int, cell_xy: Array) -> Array:
    """(N,) bool: the raster, dilated by `radius` cells, is set at these (N, 2) (column, row)."""
    inside = np.empty(len(cell_xy), np.bool_)
    for i in range(len(cell_xy)):
        inside[i] = _dilated(away, radius, cell_xy[i, 1], cell_xy[i, 0])
    return inside


@_kernel
def corners_inside(
    away: Array,
    radius: int,
    origin_xy: Array,
    cells_per_m: float,
    margin: float,
    box: Array,
    asked: Array,
    pose: Array,
    R: Array,
    t: Array,
) -> Array:
    """Whether a corner of each box lies on the dilated raster: 1 yes, 0 no, 2 cannot say.

    The last is the answer when it hangs on a corner that lies within `margin` cells of a cell's
    edge, where the last bits of the arithmetic decide.

    Args:
        away: of `column_distance`.
        radius: of the dilation, cells.
        origin_xy: (2,) added to city coordinates before they are scaled.
        cells_per_m: the scale.
        margin: in cells, far above rounding errors.
        box: (N, 10).
        asked: (N,) bool; others are answered 0.
        pose: (N,) index of the box's pose.
        R, t: (P, 3, 3), (P, 3), city from ego.
    """
    answer = np.zeros(len(box), np.uint8)
    for i in range(len(box)):
        if not asked[i]:
            continue
        w, x, y, z = box[i, 6], box[i, 7], box[i, 8], box[i, 9]
        inverse = 2.0 / (w * w + x * x + y * y + z * z)
        r00, r01 = 1.0 - (y * y + z * z) * inverse, (x * y - w * z) * inverse
        r02 = (x * z + w * y) * inverse
        r10, r11 = (x * y + w * z) * inverse, 1.0 - (x * x + z * z) * inverse
        r12 = (y * z - w * x) * inverse
        r20, r21 = (x * z - w * y) * inverse, (y * z + w * x) * inverse
        r22 = 1.0 - (x * x + y * y) * inverse
        p = pose[i]
        half_l, half_w, half_h = box[i, 3] / 2, box[i, 4] / 2, box[i, 5] / 2
        unsure = False
        for corner in range(8):
            a = half_l if corner & 1 else -half_l
            b = half_w if corner & 2 else -half_w
            c = half_h if corner & 4 else -half_h
            ego_x = r00 * a + r01 * b + r02 * c + box[i, 0]
            ego_y = r10 * a + r11 * b + r12 * c + box[i, 1]
            ego_z = r20 * a + r21 * b + r22 * c + box[i, 2]
            u = R[p, 0, 0] * ego_x + R[p, 0, 1] * ego_y + R[p, 0, 2] * ego_z + t[p, 0]
            v = R[p, 1, 0] * ego_x + R[p, 1, 1] * ego_y + R[p, 1, 2] * ego_z + t[p, 1]
            u = (u + origin_xy[0]) * cells_per_m
            v = (v + origin_xy[1]) * cells_per_m
            if not (abs(u) < 1e9 and abs(v) < 1e9):
                continue
            # int() cuts towards zero, as the official code does: -0.9 is cell 0.
            column, row = int(u - margin), int(v - margin)
            inside = _dilated(away, radius, row, column)
            if column != int(u + margin) or row != int(v + margin):
                count = int(inside)
                count += _dilated(away, radius, row, int(u + margin))
                count += _dilated(away, radius, int(v + margin), column)
                count += _dilated(away, radius, int(v + margin), int(u + margin))
                unsure |= 0 < count < 4
                inside = count == 4
            if inside:
                answer[i] = 1
                break
        if answer[i] == 0 and unsure:
            answer[i] = 2
    return answer
