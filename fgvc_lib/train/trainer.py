"""The training loop: one for every method, and it knows none of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Loader, load
from fgvc_lib.methods import Method, Output
from fgvc_lib.train import distributed, machine
from fgvc_lib.train.checkpoint import CheckpointError, Checkpoints
from fgvc_lib.train.evaluation import evaluate
from fgvc_lib.train.machine import Precision, Stopped
from fgvc_lib.train.model import build, check_settings, describe, save_trained, start_from
from fgvc_lib.train.progress import ProgressBar
from fgvc_lib.train.schedule import learning_rate, start_phase, stretches, train_mode
from fgvc_lib.train.tables import changes, image_rows, write_table


class CompileError(RuntimeError):
    """``torch.compile`` does not work here, or not for this method."""


class NonFiniteLoss(ArithmeticError):
    """A loss term, or a weight, became infinite or not a number.

    Raised before the optimizer, the method's ``after_step`` or a checkpoint has seen it.

    Attributes:
        step: optimizer steps taken before.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Fitted:
    """A finished run.

    Attributes:
        method: in evaluation mode, with the weights that were evaluated (averaged ones under EMA).
        history: a dict per epoch: ``epoch`` (from 1), ``phase``, ``lr`` (of the last step), ``loss`` and its terms
            (means over the epoch), ``train_accuracy`` (running: in training mode, on augmented images),
            ``val_accuracy``, ``val_loss``, ``seconds`` (of training).
        final: ``train_accuracy``, ``val_accuracy``, ``val_loss`` of the epoch that is kept, the last unless
            ``config.keep`` says the best; ``test_accuracy``, ``test_loss``.
        timing: ``train_seconds`` and ``evaluation_seconds``, ``images_per_second`` of training over all processes,
            ``steps``, ``skipped_steps`` (float16 overflows).
        memory: ``peak_bytes`` and ``source``, which says what was measured.
        device: name of the hardware.
    """

    method: Method
    history: list[dict[str, Any]]
    final: dict[str, float]
    timing: dict[str, float]
    memory: dict[str, Any]
    device: str


def fit(
    config: Config,
    *,
    data: ImageData | None = None,
    device: torch.device | str | None = None,
    folder: str | Path | None = None,
    save_every: int | None = None,
    progress: bool = False,
    tensorboard: bool = False,
) -> Fitted:
    """Train, evaluate every epoch on ``val`` and once at the end on ``test``.

    A run is a function of ``config`` and ``data``; on a CPU to the last bit, for one number of threads. Under
    ``torchrun`` the processes train together, on any number of machines. The caller's random state of torch is left as
    it was.

    Args:
        config: everything that decides the result. Where ``max_steps`` is less than the epochs' steps, phases and
            schedule are laid out over ``max_steps``, so that a short run still goes through all of them.
        data: the set; by default ``config.data`` is loaded.
        device: by default the process's GPU, or the CPU.
        folder: of checkpoints, ``model.pt``, ``history.csv`` and, for a set of image files, ``images.csv``, which says
            who is in which split; a run found there is resumed. SIGTERM and Ctrl-C then save and stop. Only rank 0
            writes. None writes nothing.
        save_every: checkpoint every so many steps too, besides after every epoch.
        progress: show what the data holds, a bar, and a line an epoch (on rank 0).
        tensorboard: write scalars to ``folder/tensorboard`` (on rank 0).

    Raises:
        ValueError: settings that do not fit together, the data or the device.
        NonFiniteLoss: a loss term became infinite or NaN; weights, centers and checkpoints are those before it.
        CheckpointError: ``folder`` holds another run.
        CompileError: ``torch.compile`` was asked for and failed.
        Stopped: SIGTERM or Ctrl-C came; the run is saved.
    """
    if folder is None and (save_every is not None or tensorboard):
        raise ValueError("save_every and tensorboard need a folder to write to")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    check_settings(config)
    device = machine.pick_device(device)
    data = load(config.data, **config.data_args) if data is None else data
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        distributed.process_group(device),
        machine.stop_signals(catch=folder is not None) as signals,
    ):
        trainer = Trainer(config, data, device, None if folder is None else Path(folder), save_every, signals)
        return trainer.run(progress=progress, tensorboard=tensorboard)


@dataclass
class Position:
    """Where a run stands; plain data.

    Attributes:
        step: optimizer steps done, skipped ones included; with the loader's length, the epoch and the step in it.
        phase: index of the phase that the optimizer belongs to.
        skipped: steps that float16 overflows have cost.
        history: finished epochs.
        sums, steps: of the loss terms and the accuracy in the running epoch.
        epoch_seconds: training time of the running epoch.
        evaluation_seconds: of all epochs so far.
    """

    step: int = 0
    phase: int = 0
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    epoch_seconds: float = 0.0
    evaluation_seconds: float = 0.0


class Trainer:
    """One run: what it trains, on what, and where it stands.

    Args:
        config, data, device, folder, save_every: see :func:`fit`.
        signals: not empty once this process was told to stop.
    """

    def __init__(
        self,
        config: Config,
        data: ImageData,
        device: torch.device,
        folder: Path | None,
        save_every: int | None,
        signals: list[int],
    ) -> None:
        self.config, self.data, self.device, self.folder = config, data, device, folder
        self.save_every, self.signals = save_every, signals
        self.rank, world = distributed.rank(), distributed.world_size()

        if not len(data.val) and (config.keep == "best" or config.patience is not None):
            raise ValueError(f"keep='best' and patience choose by validation images, but {data.name} holds none out")

        # the method and its averaged copy
        method = build(config, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if world > 1 and device.type == "cuda":
            method = distributed.sync_batchnorm(method)
        self.method = cast(Method, method)
        torch.manual_seed(config.seed + self.rank)  # for what draws from the global generators, such as dropout
        self.method.seed(config.seed, self.rank)
        self.method.splits = world * config.grad_accum_steps
        if config.class_weights == "balanced":
            counts = data.train.labels.bincount(minlength=len(data.classes))
            self.method.class_weights = (len(data.train) / (len(counts) * counts)).to(device)
        started = None if config.start is None else start_from(self.method, config.start)
        self.ema: AveragedModel | None = None
        if config.ema_decay is not None:  # averages parameters, copies buffers
            average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.method, multi_avg_fn=average)
        self.evaluated = self.method if self.ema is None else cast(Method, self.ema.module)
        self.precision = Precision(config.precision, device)

        # its batches and its schedule
        sampler = self.method.sampler or ((1, 1) if config.balanced_batches else None)
        check_micro_batches(config, world, sampler)
        self.loader = Loader(
            data,
            "train",
            config.batch_size,
            train=True,
            seed=config.seed,
            device=device,
            sampler=sampler,
            rank=self.rank,
            world_size=world,
        )
        steps = config.epochs * len(self.loader)
        self.total = min(steps, config.max_steps or steps)
        self.plan = stretches(self.method.phases(), self.total)
        self.stretch = self.plan[0]

        # where an earlier run in this folder stopped
        self.at = Position()
        self.lr = config.lr
        self.model: nn.Module = self.method  # compiled and distributed, from the first step on
        self.optimizer: torch.optim.Optimizer | None = None
        self.info = describe(config, data)
        self.best: dict[str, Tensor] | None = None  # weights of the best epoch, where they are kept
        identity = {"config": config.to_dict(), "data": data.fingerprint, "processes": world}
        identity |= {} if started is None else {"start": started}
        self.checkpoints = None if folder is None else Checkpoints(folder, identity)
        saved = self._saved() if self.rank == 0 else None
        self.saved = distributed.from_rank_0(saved)
        if self.saved is not None:
            self.load_state_dict(self.saved)

    def run(self, *, progress: bool, tensorboard: bool) -> Fitted:
        """Train to the end, or until told to stop."""
        machine.start_memory(self.device)
        events = self.folder / "tensorboard" if self.folder is not None and tensorboard and self.rank == 0 else None
        with ProgressBar(self.total, start=self.at.step, show=progress and self.rank == 0, tensorboard=events) as bar:
            bar.note(self.data.summary)
            if self.folder is not None:
                bar.note(f"saved in {self.folder}")
            while self.at.step < self.total and not self.out_of_patience():
                stopping = self.train_epoch(bar)
                bar.epoch(self.at.step, self.end_epoch())
                self.save()
                self.write_tables()
                if stopping and self.at.step < self.total:
                    raise Stopped(self.signals)
        if self.optimizer is None:  # the run was found finished: what it froze is frozen
            start_phase(self.method, self.plan[-1].phase, self.config)
        return self.finish()

    def train_epoch(self, bar: ProgressBar) -> bool:
        """Train to the end of the epoch; whether the run was told to stop at its last step."""
        epoch, done = divmod(self.at.step, len(self.loader))
        train_mode(self.method, norm_eval=self.config.norm_eval)
        clock = time.perf_counter()
        stopping = False
        for images, labels, _ in self.loader.epoch(epoch, start=done):
            self.start_phase_if_due()
            assert self.optimizer is not None
            self.lr = learning_rate(self.config, self.stretch, self.at.step, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * group["lr_scale"]
            terms, accuracy, stopping = self.step(images, labels)
            bar.step(self.at.step, terms, lr=self.lr, images=self.config.batch_size)
            for name, value in {**terms, "train_accuracy": accuracy}.items():
                self.at.sums[name] = self.at.sums.get(name, 0.0) + value

            if self.at.step == self.total or self.at.step % len(self.loader) == 0:
                break
            if stopping or (self.save_every and self.at.step % self.save_every == 0):
                self.at.epoch_seconds += time.perf_counter() - clock
                self.save()
                clock = time.perf_counter()
            if stopping:
                raise Stopped(self.signals)
        machine.synchronize(self.device)
        self.at.epoch_seconds += time.perf_counter() - clock
        return stopping

    def start_phase_if_due(self) -> None:
        """At the first step of a phase: what is frozen, the optimizer, and the gradients that processes exchange."""
        self.stretch = next(s for s in self.plan if s.start <= self.at.step < s.stop)
        if self.optimizer is not None and self.at.step != self.stretch.start:
            return
        self.optimizer = start_phase(self.method, self.stretch.phase, self.config)
        if self.saved is not None and self.saved["run"]["phase"] == self.stretch.index:
            self.optimizer.load_state_dict(self.saved["optimizer"])
        self.saved, self.at.phase = None, self.stretch.index
        train_mode(self.method, norm_eval=self.config.norm_eval)
        self.model = cast(nn.Module, torch.compile(self.method)) if self.config.compile else self.method
        if distributed.world_size() > 1:
            self.model = DistributedDataParallel(self.model, broadcast_buffers=False)

    def step(self, images: Tensor, labels: Tensor) -> tuple[dict[str, float], float, bool]:
        """One optimizer step on this process's rows of a batch.

        Args:
            images: ``(B, C, H, W)``.
            labels: ``(B,)``.

        Returns:
            The loss terms and the accuracy, averaged over micro-batches and processes, and whether any process was
            told to stop.
        """
        count = self.config.grad_accum_steps
        states: list[dict[str, Tensor]] = []
        total: Tensor | float = 0.0
        arrived: Callable[[], list[float]] = list
        for i, (x, y) in enumerate(zip(images.chunk(count), labels.chunk(count), strict=True)):
            last = i == count - 1
            alone = isinstance(self.model, DistributedDataParallel) and not last  # gradients are exchanged once a step
            with cast(DistributedDataParallel, self.model).no_sync() if alone else nullcontext():
                with self.precision.autocast():
                    output = self.forward(x.contiguous(memory_format=torch.channels_last), y)
                terms = torch.stack([term.float() for term in output.terms.values()]) / count  # mean over micro-batches
                right = (output.logits.detach().argmax(1) == y).float().mean() / count
                total = total + torch.cat([terms.detach(), right[None]])  # (terms + 1,)
                states.append(output.state)
                if last:  # asked for now, the values arrive while the device is busy going backward
                    flag = total.new_full((1,), float(bool(self.signals)))
                    arrived = machine.to_host(distributed.mean(torch.cat([total, flag])))
                self.precision.scaler.scale(terms.sum()).backward()  # type: ignore[no-untyped-call]
        *means, accuracy, stopping = arrived()
        named = dict(zip(output.terms, means, strict=True))
        self.check_finite(named)
        assert self.optimizer is not None
        if optimizer_step(self.optimizer, self.precision, grad_clip_norm=self.config.grad_clip_norm):
            with torch.no_grad():
                self.method.after_step(states)
            if self.ema is not None:
                self.ema.update_parameters(self.method)
        else:  # float16 gradients overflowed: nothing moves, nor does the method
            self.at.skipped += 1
        self.at.step += 1
        self.at.steps += 1
        return named, accuracy, stopping > 0

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        """The method's output; compilation happens in the first step, and so do its errors."""
        try:
            return cast(Output, self.model(images, labels))
        except RuntimeError as error:
            if not self.config.compile:
                raise
            from torch._dynamo.exc import TorchDynamoException  # slow to import

            if not isinstance(error, TorchDynamoException):
                raise
            cause = str(error.__cause__ or error).strip().splitlines()[0][:200]
            raise CompileError(
                f"torch.compile failed for {type(self.method).__name__} ({cause}): set compile to false, "
                "or install what it needs (a C++ compiler for CPUs, Triton for GPUs)"
            ) from error

    def end_epoch(self) -> dict[str, Any]:
        """Evaluate, and append the epoch's row to the history."""
        clock = time.perf_counter()
        distributed.copy_buffers(self.evaluated)
        scores = evaluate(self.evaluated, self.data, "val")
        means = {name: value / self.at.steps for name, value in self.at.sums.items()}
        accuracy = means.pop("train_accuracy")
        row = {
            "epoch": -(-self.at.step // len(self.loader)),
            "phase": self.stretch.phase.name,
            "lr": self.lr,
            "loss": sum(means.values()),
            **means,
            "train_accuracy": accuracy,
            "val_accuracy": scores["accuracy"],
            "val_loss": scores["loss"],
            "seconds": self.at.epoch_seconds,
        }
        self.at.history.append(row)
        if self.config.keep == "best" and best_epoch(self.at.history) == len(self.at.history) - 1:
            self.best = {name: value.detach().clone() for name, value in self.evaluated.state_dict().items()}
        self.at.sums, self.at.steps, self.at.epoch_seconds = {}, 0, 0.0
        self.at.evaluation_seconds += time.perf_counter() - clock
        return row

    def out_of_patience(self) -> bool:
        """Whether too many epochs have passed since the best one."""
        history, patience = self.at.history, self.config.patience
        return patience is not None and bool(history) and len(history) - 1 - best_epoch(history) >= patience

    def finish(self) -> Fitted:
        """Evaluate on the test split, once, and write ``model.pt``."""
        kept = self.at.history[-1]
        if self.best is not None:
            self.evaluated.load_state_dict(self.best)
            kept = self.at.history[best_epoch(self.at.history)]
        test = evaluate(self.evaluated, self.data, "test")
        final = {key: float(kept[key]) for key in ("train_accuracy", "val_accuracy", "val_loss")}
        final |= {"test_accuracy": test["accuracy"], "test_loss": test["loss"]}
        seconds = sum(row["seconds"] for row in self.at.history)
        timing = {
            "train_seconds": seconds,
            "evaluation_seconds": self.at.evaluation_seconds,
            "images_per_second": self.at.step * self.config.batch_size / seconds,
            "steps": self.at.step,
            "skipped_steps": self.at.skipped,
        }
        if self.folder is not None and self.rank == 0:
            save_trained(self.folder / "model.pt", self.evaluated, self.info)
        memory, name = machine.peak_memory(self.device), machine.device_name(self.device)
        return Fitted(self.evaluated.eval(), self.at.history, final, timing, memory, name)

    def save(self) -> None:
        """Write a checkpoint, where there is a folder. All processes must call it."""
        self.check_weights()
        if self.checkpoints is not None:
            state = self.state_dict()
            if self.rank == 0:
                self.checkpoints.save(self.at.step, state)

    def write_tables(self) -> None:
        """Write ``history.csv`` and ``images.csv``, where there is a folder."""
        if self.folder is None or self.rank > 0:
            return
        write_table(self.folder / "history.csv", self.at.history)
        if len(self.at.history) == 1 and (images := image_rows(self.data)):
            write_table(self.folder / "images.csv", images)

    def _saved(self) -> dict[str, Any] | None:
        """The state of an earlier run in the folder."""
        if self.checkpoints is None:
            return None
        try:
            return self.checkpoints.load()
        except CheckpointError as error:
            images = changes(self.checkpoints.folder / "images.csv", self.data)
            raise CheckpointError(f"{error}; images: {images}" if images else str(error)) from None

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had never stopped, as tensors and plain data.

        Learning rates and the sampler are functions of the step, so the position is all they need.
        """
        assert self.optimizer is not None
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        own = {
            "random": {"torch": torch.get_rng_state(), "cuda": cuda},
            "rank_generator": self.method.rank_generator.get_state(),
        }
        return {
            "run": asdict(self.at),
            "info": asdict(self.info),
            "method": self.method.state_dict(),
            "shared_generator": self.method.shared_generator.get_state(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "ranks": distributed.gather(own),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put everything back but the optimizer, which is made when its phase starts."""
        self.at = Position(**saved["run"])
        self.method.load_state_dict(saved["method"])
        self.method.shared_generator.set_state(saved["shared_generator"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        self.best = saved["best"]
        self.precision.scaler.load_state_dict(saved["scaler"])
        own = saved["ranks"][self.rank]
        self.method.rank_generator.set_state(own["rank_generator"])
        torch.set_rng_state(own["random"]["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["random"]["cuda"], self.device)

    def check_finite(self, terms: Mapping[str, float]) -> None:
        """Raise :class:`NonFiniteLoss` if a term is infinite or NaN, naming it, the step and all terms."""
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            shown = ", ".join(f"{name} = {value:.6g}" for name, value in terms.items())
            raise NonFiniteLoss(
                f"loss term {' and '.join(bad)} is not finite at step {self.at.step + 1} ({shown}): "
                "training stopped before the weights changed; try a smaller lr, warm-up, clipping or float32",
                step=self.at.step,
            )

    def check_weights(self) -> None:
        """Raise :class:`NonFiniteLoss` if a parameter is not finite, as gradients can make it under a finite loss."""
        named = dict(self.method.named_parameters())
        finite = torch.stack([torch.isfinite(parameter).all() for parameter in named.values()]).tolist()
        bad = [name for name, good in zip(named, finite, strict=True) if not good]
        if bad:
            raise NonFiniteLoss(
                f"parameter {bad[0]} is not finite after step {self.at.step}: no checkpoint was written of it; "
                "try a smaller lr, warm-up, clipping or float32",
                step=self.at.step,
            )


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Position of the first row with the highest validation accuracy, and of those the lowest loss."""
    return max(range(len(history)), key=lambda i: (history[i]["val_accuracy"], -history[i]["val_loss"], -i))


def optimizer_step(optimizer: torch.optim.Optimizer, precision: Precision, *, grad_clip_norm: float | None) -> bool:
    """Clip the gradients, step once, clear them; whether the step was taken.

    The scaler unscales the gradients before they are clipped, and skips the step where they overflowed.
    """
    scaler = precision.scaler
    if grad_clip_norm is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], grad_clip_norm)
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return scaler.get_scale() >= scale  # it shrinks exactly when the step was skipped


def check_micro_batches(config: Config, world: int, sampler: tuple[int, int] | None) -> None:
    """Refuse a batch that does not split evenly over ``world`` processes, micro-batches and groups of the sampler."""
    rows, rest = divmod(config.batch_size, world * config.grad_accum_steps)
    if rest:
        raise ValueError(
            f"batch_size {config.batch_size} does not split evenly over {world} processes "
            f"× {config.grad_accum_steps} micro-batches"
        )
    if sampler is not None and rows % (sampler[0] * sampler[1]):
        raise ValueError(
            f"a micro-batch of {rows} images is not a multiple of {sampler[0]} classes × {sampler[1]} images: "
            "change batch_size or grad_accum_steps"
        )
