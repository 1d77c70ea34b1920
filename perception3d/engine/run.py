"""`Run`: what happens around the updates of a run: logging, averaging, saving, scoring.

Knows PyTorch only; `training` drives it.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from perception3d.engine.checkpoints import save_weights
from perception3d.engine.ema import WeightAverage
from perception3d.engine.evaluating import evaluate
from perception3d.engine.experiment import Experiment, Samples
from perception3d.engine.files import write_json
from perception3d.engine.gradient_figures import (
    balancing_parts,
    gradient_figures,
    share_measurements,
)
from perception3d.engine.loss_meter import LossMeter
from perception3d.engine.metrics_log import MetricsLog
from perception3d.engine.objective import Losses
from perception3d.engine.plan import Plan
from perception3d.engine.progress import Progress
from perception3d.engine.run_folder import RunFolder
from perception3d.engine.run_state import RunState

SAVING_SHARE = 0.05
"""Rolling checkpoints may take this share of the time; large models save less often."""


class Run:
    """One process's view of a run. Only rank 0 writes.

    Args:
        experiment, plan: what to do.
        folder: where to.
        model: the bare model.
        val: validation samples, or None.
        state: where to continue, or None.
        rank, world_size: this process.
        tensorboard: also write TensorBoard's event files.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        folder: RunFolder,
        model: nn.Module,
        *,
        val: Samples | None,
        state: RunState | None,
        rank: int,
        world_size: int,
        tensorboard: bool = True,
    ) -> None:
        self.experiment, self.plan, self.folder, self.model = experiment, plan, folder, model
        self.val, self.rank, self.world_size = val, rank, world_size
        self.step = 0 if state is None else state.step
        self.average: WeightAverage | None = None
        self.writes = rank == 0
        self.meter, self.gradients = LossMeter(), LossMeter()
        self._balancing = balancing_parts(model)
        self._state = state
        self._log: MetricsLog | None = None
        self._tensorboard = folder.tensorboard if tensorboard else None
        self.progress = Progress(plan.total_steps, "step", done=self.step, quiet=not self.writes)
        self._saved_at = time.monotonic()
        self._save_s = 0.0
        self._logged_at, self._logged_step, self._data_s = time.monotonic(), self.step, 0.0

    def start(self, device: torch.device) -> None:
        """Called when the model is on its device, before the first update."""
        self.device = device
        share_measurements(self._balancing)
        if self.experiment.ema_decay is not None:
            self.average = WeightAverage(self.model, self.experiment.ema_decay)
            if self._state is not None and self._state.average is not None:
                self.average.load_state_dict(self._state.average)
        if self.writes:
            self._log = MetricsLog(
                self.folder.metrics,
                tensorboard=self._tensorboard,
                # Also without a state: the run may have been killed before its first save.
                after_step=self.step,
            )
        resumed, self._state = self._state is not None, None
        # Killed between the end of an epoch and its scores: make up for it.
        if resumed and self.step and self._at_epoch_end() and not self._is_scored():
            self._finish_epoch()
        self._saved_at = self._logged_at = time.monotonic()

    def after_update(
        self, optimizer: Optimizer, scaler: dict[str, Any], grad_norm: torch.Tensor | None
    ) -> None:
        """Count an update; average, log and save as due (the end of an epoch saves by itself)."""
        self.step += 1
        self.progress.advance()
        if self.average is not None:
            self.average.update(self.model)
        if self.writes:
            figures = gradient_figures(self._balancing, grad_norm, self.experiment.clip_norm)
            if figures:
                self.gradients.add(figures)
            last = self.step == self.plan.total_steps
            if self.step % self.experiment.log_every == 0 or last:
                self._log_line(optimizer, grad_norm)
            if self._save_due() and not self._at_epoch_end():
                self.save(optimizer, scaler)

    def loaded(self, losses: Losses, waited_s: float) -> None:
        """Take a batch's loss terms and the time that the loader kept the model waiting."""
        self._data_s += waited_s
        if self.writes:
            self.meter.add(losses)

    def save(self, optimizer: Optimizer, scaler: dict[str, Any]) -> None:
        """Write the rolling checkpoint (rank 0)."""
        if not self.writes:
            return
        began = time.monotonic()
        RunState(
            step=self.step,
            plan=asdict(self.plan),
            seed=self.experiment.seed,
            batch_size=self.experiment.batch_size,
            world_size=self.world_size,
            model=self.model.state_dict(),
            optimizer=optimizer.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            scaler=scaler,
        ).save(self.folder.checkpoint)
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - began

    def end_epoch(self, optimizer: Optimizer, scaler: dict[str, Any]) -> None:
        """Save the state first, then weights and scores, which a resumed run can make up for."""
        self.save(optimizer, scaler)
        began = time.monotonic()
        self._finish_epoch()
        self.progress.pause(time.monotonic() - began)
        self._logged_at, self._logged_step, self._data_s = time.monotonic(), self.step, 0.0

    def close(self) -> None:
        """Flush the logs and end the progress line."""
        if self.progress.begun:
            self.progress.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _finish_epoch(self) -> None:
        epoch = self._epochs_done()
        last = self.step == self.plan.total_steps
        if self.average is None:
            self._store_and_score(epoch, last)
        else:
            with self.average.applied_to(self.model):
                self._store_and_score(epoch, last)

    def _store_and_score(self, epoch: int, last: bool) -> None:
        names = [f"epoch_{epoch:02d}"] + (["last"] if last else [])
        if self.writes:
            for name in names:
                self._store(name)
        if self.val is None or not self._is_due(epoch):
            return
        scores = evaluate(
            self.experiment,
            self.model,
            self.val,
            self.folder.evaluation(epoch),
            device=self.device,
            rank=self.rank,
            world_size=self.world_size,
            quiet=not self.writes,
            say=self.progress.say,
        )
        if scores is None:
            return
        before = self.folder.read_scores()
        key = self.experiment.best_by
        if scores.get(key, -math.inf) > max(
            (row.get(key, -math.inf) for row in before), default=-math.inf
        ):
            self._store("best")
        write_json(self.folder.scores, [*before, {"epoch": epoch, "step": self.step, **scores}])
        self.folder.keep_newest_results(epoch)
        if self._log is not None:
            self._log.write(self.step, {"epoch": epoch, "val": scores})

    def _store(self, name: str) -> None:
        notes = {"experiment": self.experiment.name, "step": str(self.step)}
        save_weights(self.model, self.folder.weights(name), notes=notes)

    def _log_line(self, optimizer: Optimizer, grad_norm: torch.Tensor | None) -> None:
        assert self._log is not None
        terms = self.meter.take()
        tasks = {task: sum(values.values()) for task, values in terms.items()}
        now = time.monotonic()
        spent = max(1e-9, now - self._logged_at)
        updates = self.step - self._logged_step
        samples = updates * self.plan.accumulate * self.experiment.batch_size * self.world_size
        group = optimizer.param_groups[0]
        values: dict[str, Any] = {
            "epoch": self.plan.epoch_of(self.step - 1),
            "loss": sum(tasks.values()),
            "task": tasks,
            "term": terms,
            "lr": group["lr"],
            "samples_per_s": samples / spent,
            "data_share": self._data_s / spent,
        }
        if "betas" in group:
            values["beta1"] = group["betas"][0]
        if grad_norm is not None:
            values["grad_norm"] = float(grad_norm)
        if balanced := self.gradients.take():
            values["gradients"] = balanced
        if torch.cuda.is_available():
            values["cuda_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self._log.write(self.step, values)
        self._logged_at, self._logged_step, self._data_s = now, self.step, 0.0
        if self.progress.due:
            parts = ", ".join(f"{task} {value:.3g}" for task, value in tasks.items())
            epoch = f"epoch {values['epoch'] + 1}/{self.plan.epochs}"
            share = f"data {100 * values['data_share']:.0f} %"
            self.progress.show(f"{epoch}  loss {values['loss']:.4g} ({parts})  {share}")

    def _save_due(self) -> bool:
        every = self.experiment.save_every_steps
        if every is not None and self.step % every == 0:
            return True
        wait = max(self.experiment.save_every_s, self._save_s / SAVING_SHARE)
        return time.monotonic() - self._saved_at >= wait

    def _at_epoch_end(self) -> bool:
        return self.step % self.plan.steps_per_epoch == 0 or self.step == self.plan.total_steps

    def _epochs_done(self) -> int:
        return -(-self.step // self.plan.steps_per_epoch)

    def _is_scored(self) -> bool:
        done = self._epochs_done()
        stored = self.folder.weights(f"epoch_{done:02d}").exists()
        last = self.step < self.plan.total_steps or self.folder.weights("last").exists()
        scored = any(row.get("step") == self.step for row in self.folder.read_scores())
        return stored and last and (scored or not self._is_due(done))

    def _is_due(self, epoch: int) -> bool:
        """Whether an evaluation follows after so many epochs."""
        every = self.experiment.evaluate_every
        if not self.experiment.evaluators or self.val is None or every is None:
            return False
        return self.step == self.plan.total_steps or (every > 0 and epoch % every == 0)
