"""Training on Lightning, and the only file that knows Lightning.

Lightning starts processes, wraps the model (DDP), sets precision, accumulates and steps. What makes
a run continue bit for bit is ours (`plan`, `run_state`): Lightning always sees a fresh fit over
what is left, so none of its restart logic takes part.

Several processes average their gradients. With a loss that is a mean over samples, N processes of
batch b give exactly the gradient of one process with batch N*b. The published losses of CMT divide
by counts of their own process (boxes, queries), so there the two agree only where those counts do;
the published runs have the same property.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from perception3d.engine.checkpoints import load_weights
from perception3d.engine.experiment import Experiment
from perception3d.engine.files import write_json
from perception3d.engine.launch import Launch
from perception3d.engine.loading import EpochBatches, TrainLoader, samples_per_epoch
from perception3d.engine.nodes import Meeting, explain_lost_process, settle_nodes
from perception3d.engine.nonfinite import NonFiniteError, explain_gradient, explain_loss
from perception3d.engine.objective import refuse_needs, total_loss
from perception3d.engine.optim import apply_factors
from perception3d.engine.plan import make_plan, step_seed
from perception3d.engine.run import Run
from perception3d.engine.run_folder import RunFolder
from perception3d.engine.run_state import RunState
from perception3d.engine.stopping import Interrupted, StopRequest
from perception3d.nn.attention import attention_kernels

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a call of `train` ended: after ``step`` of ``total_steps`` updates, in ``folder``.

    ``rank`` is the number of this process; every process of a run has a result of its own.
    """

    folder: RunFolder
    step: int
    total_steps: int
    scores: list[dict[str, Any]]
    rank: int = 0

    @property
    def finished(self) -> bool:
        """Whether the run is complete (else it was interrupted and can be resumed)."""
        return self.step == self.total_steps


def train(experiment: Experiment, launch: Launch | None = None) -> TrainingResult:
    """Run an experiment, or what is left of it, in its run folder.

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is not set.
        FileNotFoundError: nothing to resume.
        InUseError: another process trains in the folder.
        ValueError: resumed under other numbers or data; precision not available here.
        NonFiniteError: a loss or gradient became NaN or infinite; ``nonfinite.json`` has the facts.
        OSError: a file could not be read or written; the last checkpoint is intact. Or the machines
            of the run did not find each other.
        KeyboardInterrupt: stopped at once; the last checkpoint is intact.

    A new run that ends in any of these ways before its first update leaves no folder.
    """
    launch = launch or Launch()
    if launch.threads is not None:
        torch.set_num_threads(launch.threads)
    with warnings.catch_warnings():
        _quieten()
        return _train(experiment, launch)


def _train(experiment: Experiment, launch: Launch) -> TrainingResult:
    settle_nodes(launch.nodes, launch.node_rank, launch.master)
    trainer = _trainer(experiment, launch)
    rank, world_size = trainer.global_rank, trainer.world_size
    samples = experiment.train()
    val = experiment.val() if experiment.val and experiment.evaluators else None
    plan = make_plan(
        samples_per_epoch(samples),
        batch_size=experiment.batch_size,
        accumulate=experiment.accumulate,
        world_size=world_size,
        epochs=experiment.epochs,
        max_steps=experiment.max_steps,
    )
    data = {"train": samples.fingerprint} | ({"val": val.fingerprint} if val else {})
    folder, created = launch.open_folder(experiment.name, data, create=rank == 0)
    run: Run | None = None
    stop = StopRequest(quiet=trainer.local_rank > 0)
    try:
        with folder.locked() if rank == 0 else nullcontext(), stop:
            state = launch.state(folder, plan, experiment, world_size)
            run = Run(
                experiment,
                plan,
                folder,
                _build_model(experiment, state),
                val=val,
                state=state,
                rank=rank,
                world_size=world_size,
                tensorboard=launch.tensorboard,
            )
            on_gpu = trainer.strategy.root_device.type == "cuda"
            loader = TrainLoader(
                experiment, plan, samples, rank=rank, world_size=world_size, pin_memory=on_gpu
            )
            try:
                _fit(_Module(run, loader, state, stop), trainer)
            finally:
                loader.close()
                run.close()
    except Interrupted:
        if trainer.local_rank == 0:
            step = None if run is None else run.step
            print(launch.farewell(folder, step, plan.total_steps), file=sys.stderr)
    finally:
        # Nothing is lost, and the corrected command finds its place free.
        if created and (run is None or run.step == 0):
            folder.remove()
    return TrainingResult(
        folder=folder,
        step=0 if run is None else run.step,
        total_steps=plan.total_steps,
        scores=folder.read_scores(),
        rank=rank,
    )


def _trainer(experiment: Experiment, launch: Launch) -> pl.Trainer:
    parallel = launch.devices * launch.nodes > 1
    ddp = _Processes(find_unused_parameters=experiment.find_unused_parameters)
    return pl.Trainer(
        accelerator=launch.hardware(experiment),
        devices=launch.devices,
        num_nodes=launch.nodes,
        strategy=ddp if parallel else "auto",
        precision=_PRECISIONS[experiment.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=experiment.accumulate,
        reload_dataloaders_every_n_epochs=1,  # asks for what is left of each epoch
        use_distributed_sampler=False,  # EpochSampler shares the keys out
        # Logging, checkpoints, progress and evaluation are done by Run.
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_autolog_hparams=False,
        default_root_dir=launch.root,
    )


class _Processes(DDPStrategy):
    """DDP whose machines meet in a way that can be watched and interrupted."""

    def setup_distributed(self) -> None:
        # torchrun's processes have met already.
        if self.num_nodes > 1 and not dist.is_torchelastic_launched():
            self._meet()
        super().setup_distributed()  # leaves a group that is there as it is

    def _meet(self) -> None:
        self.set_world_ranks()
        place = self.cluster_environment
        assert place is not None
        store = Meeting(
            host=place.main_address,
            port=place.main_port,
            rank=self.global_rank,
            devices=self.num_processes,
            nodes=self.num_nodes,
        ).hold(lambda text: print(text, file=sys.stderr, flush=True))
        backend = self._get_process_group_backend()
        dist.init_process_group(
            backend,
            store=store,
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=self._timeout,
            device_id=None if self.root_device.type == "cpu" else self.root_device,
        )
        if backend == "nccl":
            atexit.register(dist.destroy_process_group)  # PyTorch complains otherwise


def _fit(module: _Module, trainer: pl.Trainer) -> None:
    run = module.run
    if run.step == run.plan.total_steps:
        run.progress.say(f"{run.folder.path}: all {run.step} steps are done already")
        run.start(torch.device("cpu"))
        return
    trainer.fit_loop.max_epochs = run.plan.epochs - run.plan.epoch_of(run.step)
    try:
        trainer.fit(module)
    except SystemExit as end:
        if end.code == 1:  # Lightning's answer to the second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except NonFiniteError as error:
        facts = {"step": run.step, "module": error.module, "tokens": error.tokens}
        write_json(run.folder.path / "nonfinite.json", {**facts, "message": str(error)})
        raise
    except RuntimeError as error:
        if lost := explain_lost_process(error):
            raise lost from error
        raise


def _build_model(experiment: Experiment, state: RunState | None) -> nn.Module:
    torch.manual_seed(experiment.seed)
    model = experiment.model()
    if state is not None:
        model.load_state_dict(state.model)
    elif experiment.weights is not None:
        load_weights(model, experiment.weights)
    elif experiment.backbone_weights is not None:
        experiment.backbone_weights.fill(model)
    refuse_needs(getattr(model, "rule", None))
    if experiment.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.train()


def _quieten() -> None:
    """Silence what Lightning says to everybody and nobody can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        # Which accelerators are not used, why fit stopped, hosted services on offer.
        logging.getLogger(name).setLevel(logging.WARNING)
    # DDP on 1 x 1 kernels, whose strides say the same in two ways.
    warnings.filterwarnings("ignore", message=r"Grad strides do not match bucket view strides")
    # Frozen BatchNorm is in evaluation mode on purpose.
    # Between Lightning and new versions of PyTorch; harmless.
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")


class _Module(pl.LightningModule):
    """Ties a plain model to Lightning's loop."""

    def __init__(
        self, run: Run, loader: TrainLoader, state: RunState | None, stop: StopRequest
    ) -> None:
        super().__init__()
        self.model: Any = run.model
        self.run = run
        self.loader = loader
        self.stop = stop
        self._state = state
        self._in_window = 0  # batches of the update that have been run
        self._grad_norm: Tensor | None = None
        self._batch_ended = time.monotonic()
        self._batch: Any = None
        self._noise: Any = None

    # -- set-up

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.run.experiment.optimizer.build(self.model)
        if self._state is not None:
            optimizer.load_state_dict(self._state.optimizer)
            if self._state.scaler:
                self.trainer.precision_plugin.load_state_dict(self._state.scaler)
            self._state = None
        return optimizer

    def train_dataloader(self) -> EpochBatches:
        return self.loader.epoch(self.run.plan.epoch_of(self.run.step), self.run.step)

    def on_train_start(self) -> None:
        # Lightning's own answer to SIGTERM ends the run without saving, with exit status 0.
        self.stop.listen()
        self.run.start(self.device)
        self._say_kernels()
        self.stop.resumable = False
        self._batch_ended = time.monotonic()

    # -- one batch

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch.to(device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._waited_s = time.monotonic() - self._batch_ended
        if self._in_window == 0:
            schedule, plan = self.run.experiment.schedule, self.run.plan
            apply_factors(self._optimizer(), schedule.at(self.run.step, plan.total_steps))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self._forward(batch)
        # Losses, matching included, are computed in full precision.
        with torch.autocast(self.device.type, enabled=False):
            losses = self.model.loss(outputs, batch)
        total = total_loss(losses, getattr(self.model, "rule", None))
        # Waits for the device; matching has waited for it already.
        if not bool(torch.isfinite(total)):
            raise explain_loss(
                self.model, lambda: self._repeat(batch), losses, batch, self.run.step
            )
        self.run.loaded(losses, self._waited_s)
        self._batch = batch
        return total

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        limit = self.run.experiment.clip_norm
        # From the optimiser's groups, which is faster than to walk through the modules.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._grad_norm = norm
        scaled = bool(self.trainer.precision_plugin.state_dict())
        # Under fp16 an overflow now and then is expected: the scaler skips the step.
        if not scaled and not bool(torch.isfinite(norm)):
            raise explain_gradient(self.model, self._batch, self.run.step)
        if limit is not None:
            clip_grads_with_norm_(parameters, limit, norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._in_window += 1
        self._batch_ended = time.monotonic()
        if self._in_window < self.run.plan.accumulate:
            return
        self._in_window = 0
        self.run.after_update(self._optimizer(), self._scaler(), self._grad_norm)
        if self.stop.agreed(self.device):
            self.run.save(self._optimizer(), self._scaler())
            raise Interrupted
        self._batch_ended = time.monotonic()

    def on_train_epoch_end(self) -> None:
        self._batch = None
        self.stop.resumable = True
        self.run.end_epoch(self._optimizer(), self._scaler())
        self.stop.resumable = False
        self._batch_ended = time.monotonic()

    # -- parts

    def _say_kernels(self) -> None:
        precision = self.run.experiment.precision
        kernels = attention_kernels(self.model, self.device, _DTYPES[precision])
        if kernels is not None and self.run.writes:
            text = ", ".join(f"{kernel} {case}" for case, kernel in kernels.items())
            self.run.progress.say(f"attention on {self.device.type} in {precision}: {text}")

    def _forward(self, batch: Any) -> Any:
        # Apart from the forward pass, which may be repeated on one process alone: making noise is
        # something that all processes do together.
        self._seed("noise")
        self._noise = self.model.denoising(batch)
        self._seed("forward")
        return self.model(batch, self._noise)

    def _seed(self, part: str) -> None:
        batch = self.run.step * self.run.plan.accumulate + self._in_window
        seed = step_seed(self.run.experiment.seed, batch, self.run.rank, part)
        # Not torch.manual_seed: without a GPU it queues a call with a stack trace every time.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _repeat(self, batch: Any) -> Any:
        self._seed("forward")
        with self.trainer.precision_plugin.forward_context():
            return self.model(batch, self._noise)

    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def _scaler(self) -> dict[str, Any]:
        return self.trainer.precision_plugin.state_dict()
