"""What a CMT is trained for: boxes, maps or both, and how their gradients are balanced."""

from __future__ import annotations

from dataclasses import dataclass

from configs._balancing import RuleName, Tasks, make_rule, refuse_senseless, task_names
from configs._cmt_sizes import Sensors
from perception3d.balancing import Balance, Fork


@dataclass(frozen=True, kw_only=True)
class Joint:
    """The tasks of a run and the calibration of their gradients; by default boxes alone.

    Attributes:
        tasks: boxes, maps, or both.
        rule: between two tasks.
        intra: bring the gradients of both sensors to one length, where there are maps.
        map_weight: of the map's loss, with the rule "fixed".
        map_scale: of the map's loss, before any rule.
    """

    tasks: Tasks = "det"
    rule: RuleName = "imtl_g"
    intra: bool = False
    map_weight: float = 1.0
    map_scale: float = 1.0

    @property
    def boxes(self) -> bool:
        """Whether boxes are trained."""
        return "det" in self.tasks

    @property
    def maps(self) -> bool:
        """Whether maps are trained."""
        return "map" in self.tasks

    @property
    def suffix(self) -> str:
        """Of the run's name."""
        if not self.maps:
            return ""
        rule = f"_{self.rule}" if self.boxes else ""
        return f"_{self.tasks.replace(',', '_')}{rule}" + ("_intra" if self.intra else "")

    def fork(self) -> Fork | None:
        """Between the tasks; None where there is one.

        Raises:
            ValueError: a weight that the rule does not take.
        """
        if not (self.boxes and self.maps):
            return None
        return Fork(make_rule(self.rule, task_names(self.tasks), self.map_weight))

    def balance(self) -> Balance | None:
        """Between the sensors."""
        return Balance(("camera", "lidar")) if self.intra else None


BOXES_ALONE = Joint()


def joint(
    tasks: Tasks,
    sensors: Sensors,
    rule: RuleName,
    intra: bool,
    map_weight: float,
    map_scale: float,
) -> Joint:
    """What these knobs ask for; there is nothing to balance in one sensor, nor in boxes alone.

    Raises:
        ValueError: knobs that have no meaning for these tasks or sensors.
    """
    refuse_senseless(tasks, map_weight, map_scale)
    made = Joint(
        tasks=tasks,
        rule=rule,
        intra=intra and "map" in tasks and sensors == "fusion",
        map_weight=map_weight,
        map_scale=map_scale,
    )
    made.fork()  # refuses a weight that the rule does not take now, not when the model is built
    return made
