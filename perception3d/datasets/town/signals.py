"""Traffic lights: which arm of a junction has green, and when people may cross."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception3d.datasets.town.streets import Junction

GREEN_S = 8.0
CLEAR_S = 2.5
AMBER_S = 2.0
WALK_S = 12.0
RED, AMBER, GREEN = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The lights of a district: at each junction the phases in turn, then all arms wait while
    people cross.

    Attributes:
        offsets_s: junction -> shift of its cycle.
    """

    junctions: tuple[Junction, ...]
    offsets_s: tuple[float, ...]

    @classmethod
    def draw(cls, junctions: list[Junction], rng: np.random.Generator) -> Signals:
        """Cycles with random shifts."""
        return cls(
            junctions=tuple(junctions),
            offsets_s=tuple(float(x) for x in rng.uniform(0, 60, len(junctions))),
        )

    def cycle_s(self, junction: int) -> float:
        """Length of a junction's cycle."""
        return len(self.junctions[junction].phases) * (GREEN_S + CLEAR_S) + WALK_S

    def state(self, junction: int, arm: int, time_s: float) -> int:
        """RED, AMBER or GREEN for the traffic of one arm; always GREEN where there are no
        lights.
        """
        phases = self.junctions[junction].phases
        if not phases:
            return GREEN
        at = self._at(junction, time_s)
        number, since = int(at // (GREEN_S + CLEAR_S)), at % (GREEN_S + CLEAR_S)
        if number >= len(phases) or arm not in phases[number]:
            return RED
        return GREEN if since < GREEN_S else AMBER if since < GREEN_S + AMBER_S else RED

    def walk_start(self, junction: int, time_s: float) -> float | None:
        """If people may step onto the crossings now: the time at which this walk phase began."""
        at = self._at(junction, time_s)
        start = len(self.junctions[junction].phases) * (GREEN_S + CLEAR_S)
        return time_s - (at - start) if start <= at < start + 1.5 else None

    def conflicting(self, junction: int, arm: int) -> frozenset[int]:
        """Arms whose traffic must have left the junction before traffic of `arm` may enter."""
        phases = self.junctions[junction].phases
        return frozenset(k for phase in phases if arm not in phase for k in phase)

    def _at(self, junction: int, time_s: float) -> float:
        return (time_s + self.offsets_s[junction]) % self.cycle_s(junction)
