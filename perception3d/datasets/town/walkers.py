"""People on foot: some walk round the blocks on parallel lines, some wait at crossings and cross
when all traffic waits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception3d.datasets.town.agents import Agent, dressed
from perception3d.datasets.town.catalogue import size_of
from perception3d.datasets.town.planar import Points, arc_lengths
from perception3d.datasets.town.signals import Signals
from perception3d.datasets.town.streets import District
from perception3d.datasets.town.tracks import Track

STEP_S = 0.2
# At density 1, on the three lines of a block (300 m); the outer loop is longer and gets more.
WALKERS_PER_LOOP = 15
CROSSERS_PER_CROSSING = 1.6
GAP_M = 0.55  # kept between bodies on one line
BASE_M = 0.3


def walkers(
    district: District,
    signals: Signals,
    rng: np.random.Generator,
    *,
    density: float,
    end_s: float,
    ignored: float,
) -> list[Agent]:
    """All people on foot of a scene.

    Args:
        district: walking loops and crossings.
        signals: give the walk phases.
        rng: stream of this scene's walkers.
        density: relative number.
        end_s: simulated time (the same clock as the traffic's).
        ignored: relative number of strollers, wheelchairs, scooters and dogs.

    Returns:
        Moving agents.
    """
    agents: list[Agent] = []
    for number, loop in enumerate(district.loops):
        share = 2.6 if number == len(district.loops) - 1 else 1.0
        count = round(WALKERS_PER_LOOP * density * share)
        lines = [loop[0], loop[1], loop[2][::-1]]
        for line in lines:
            agents += _walk_line(line, rng, round(count / 3), end_s, ignored)
    for crossing in district.crossings:
        for line in crossing.lines:
            if rng.random() < CROSSERS_PER_CROSSING * density / len(crossing.lines):
                is_forward = rng.random() < 0.5
                path = line if is_forward else line[::-1]
                agents.append(_crosser(path, crossing.junction, signals, rng, end_s))
    return agents


def _walk_line(
    line: Points, rng: np.random.Generator, count: int, end_s: float, ignored: float
) -> list[Agent]:
    """People who follow each other on one closed line, all in its direction."""
    length = float(arc_lengths(line)[-1])
    if count == 0:
        return []
    starts = np.sort(rng.uniform(0, length, count))
    units = [_unit(rng, ignored) for _ in range(count)]
    extents = np.array(
        [unit[-1][1] + 0.45 for unit in units]
    )  # from the leader's middle back to the last one's back
    keep: list[int] = []
    for k in range(count):  # room for each between the one before and the first of the next round
        ahead_ok = not keep or starts[k] - starts[keep[-1]] > extents[k] + GAP_M + 0.6
        if ahead_ok and (not keep or length + starts[keep[0]] - starts[k] > extents[keep[0]] + 1.2):
            keep.append(k)
    s = starts[keep]
    back = extents[keep]
    wanted = rng.uniform(0.9, 1.65, len(keep))
    history_s = [s.copy()]
    for _ in range(int(np.ceil(end_s / STEP_S)) + 1):
        ahead = np.roll(s, -1)
        ahead[-1] += length
        gap = ahead - np.roll(back, -1) - s - 0.45 - GAP_M
        v = np.minimum(wanted, np.maximum(0.0, gap / 0.8)) if len(s) > 1 else wanted
        s = s + v * STEP_S
        history_s.append(s.copy())
    times = np.arange(len(history_s)) * STEP_S
    distance = np.stack(history_s, 1)
    path = np.concatenate([line, line[1:]])
    arc = arc_lengths(path)
    agents = []
    for row, k in enumerate(keep):
        for kind, shift, role in units[k]:
            # Cubic Hermite wants the slopes of the recorded distances, not the stepwise speeds.
            d = distance[row] - shift
            if d[0] < 1.0:
                d = d + length  # the same place, one round later
            slope = np.gradient(d, STEP_S)
            track = Track(
                path_m=path, arc_m=arc, times_s=times, distance_m=d, speed_mps=slope, base_m=BASE_M
            )
            agents.append(_figure(kind, role, track, rng))
    return agents


def _unit(rng: np.random.Generator, ignored: float) -> list[tuple[str, float, str]]:
    """Who walks together, front first: (kind, distance behind the front one, role)."""
    draw = float(rng.random())
    if draw < 0.03 * ignored:
        return [("stroller", 0.0, ""), ("pedestrian", 1.05, "")]
    if draw < 0.05 * ignored:
        return [("wheelchair", 0.0, "")]
    if draw < 0.08 * ignored:
        return [("personal_mobility", 0.0, "")]
    if draw < 0.11 * ignored:
        return [("animal", 0.0, ""), ("pedestrian", 1.1, "")]
    if rng.random() < 0.15:
        return [("pedestrian", 0.0, "child" if rng.random() < 0.4 else ""), ("pedestrian", 1.0, "")]
    return [("pedestrian", 0.0, "police_officer" if rng.random() < 0.03 else "")]


def _figure(kind: str, role: str, track: Track, rng: np.random.Generator) -> Agent:
    size = size_of(kind, rng)
    if role == "child":
        size = (size[0] * 0.72, size[1] * 0.72, size[2] * float(rng.uniform(0.6, 0.78)))
    agent = Agent(
        kind=kind,
        size_lwh_m=size,
        track=track,
        seed=int(rng.integers(1 << 31)),
        role=role,
        has_rider=kind in ("personal_mobility", "wheelchair"),
    )
    return dressed(agent, rng)


def _crosser(
    path: Points, junction: int, signals: Signals, rng: np.random.Generator, end_s: float
) -> Agent:
    """Somebody who waits at the kerb, crosses in the first walk phase and waits on the other
    side.
    """
    arc = arc_lengths(path)
    times: NDArray[np.float64] = np.arange(0.0, end_s + 2 * STEP_S, STEP_S)
    pace = max(float(rng.uniform(1.2, 1.7)), float(arc[-1]) / 10.5)
    patience = float(rng.uniform(0, signals.cycle_s(junction)))
    distance = np.zeros(len(times))
    start = None
    for k, t in enumerate(times):
        if start is None and t >= patience and signals.walk_start(junction, float(t)) is not None:
            start = float(t)
        if start is not None:
            distance[k] = min(float(arc[-1]), pace * (t - start))
    track = Track(
        path_m=path,
        arc_m=arc,
        times_s=times,
        distance_m=distance,
        speed_mps=np.gradient(distance, STEP_S),
        base_m=BASE_M,
    )
    return _figure("pedestrian", "", track, rng)
