"""The training loop: one for every method, and it knows none of them.

Read ``_train``; the other files of this folder hold one part of it each, ``step.py`` the next to read.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics.classification import MulticlassAccuracy

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Loader, load
from fgvc_lib.methods import Method
from fgvc_lib.train import distributed
from fgvc_lib.train.build import build
from fgvc_lib.train.checkpoint import Checkpoints
from fgvc_lib.train.compiled import Compiled
from fgvc_lib.train.evaluate import evaluate
from fgvc_lib.train.machine import Stopped, device_name, peak_memory, sigterm, start_memory, synchronize
from fgvc_lib.train.precision import Precision
from fgvc_lib.train.progress import Progress
from fgvc_lib.train.random_state import private_random_state, seed_everything
from fgvc_lib.train.schedule import learning_rate, start_phase, stretches, train_mode
from fgvc_lib.train.state import RunState, restore, snapshot
from fgvc_lib.train.step import forward_backward, optimizer_step
from fgvc_lib.train.trained import describe, save_trained
from fgvc_lib.train.watch import check_finite, check_weights


@dataclass(frozen=True)
class Fitted:
    """A finished run.

    Attributes:
        method: in evaluation mode, with the weights that were evaluated (averaged ones under EMA).
        history: a dict per epoch: ``epoch`` (from 1), ``phase``, ``lr`` (of the last step), ``loss`` and its terms
            (means over the epoch), ``train_accuracy`` (running: in training mode, on augmented images),
            ``val_accuracy``, ``val_loss``, ``seconds`` (of training).
        final: ``train_accuracy``, ``val_accuracy``, ``val_loss`` of the last epoch, ``test_accuracy``, ``test_loss``.
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
    ``torchrun`` the processes train together, on any number of machines. The caller's random state is left as it was.

    Args:
        config: everything that decides the result. Where ``max_steps`` is less than the epochs' steps, phases and
            schedule are laid out over ``max_steps``, so that a short run still goes through all of them.
        data: the set; by default ``config.data`` is loaded.
        device: by default the process's GPU, or the CPU.
        folder: of checkpoints and ``model.pt``; a run found there is continued. SIGTERM then saves and stops.
            Only rank 0 writes. None writes nothing.
        save_every: checkpoint every so many steps too, besides after every epoch.
        progress: show a bar (on rank 0).
        tensorboard: write scalars to ``folder/tensorboard`` (on rank 0).

    Raises:
        ValueError: settings that do not fit together, the data or the device.
        NonFiniteLoss: a loss term became infinite or NaN; weights, centres and checkpoints are those before it.
        CheckpointError: ``folder`` holds another run.
        Stopped: SIGTERM came; the run is saved.
    """
    folder = None if folder is None else Path(folder)
    if folder is None and (save_every is not None or tensorboard):
        raise ValueError("save_every and tensorboard need a folder to write to")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    device = distributed.pick_device(device)
    data = load(config.data, **config.data_args) if data is None else data
    with (
        private_random_state(device),
        distributed.process_group(device),
        sigterm(catch=folder is not None) as stop,
    ):
        return _train(config, data, device, folder, save_every or 0, progress, tensorboard, stop)


def _train(
    config: Config,
    data: ImageData,
    device: torch.device,
    folder: Path | None,
    save_every: int,
    progress: bool,
    tensorboard: bool,
    stop: list[int],
) -> Fitted:
    rank, world = distributed.rank(), distributed.world_size()

    # the method and its averaged copy
    method = build(config, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world > 1 and device.type == "cuda":
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    method = cast(Method, method)
    seed_everything(config.seed + rank)  # for what draws from the global generators, such as dropout
    method.seed(config.seed, rank)
    method.splits = world * config.accumulate
    ema = None
    if config.ema is not None:  # averages parameters, copies buffers
        ema = AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]
    evaluated = method if ema is None else cast(Method, ema.module)
    precision = Precision(config.precision, device)

    # its batches and its schedule
    loader = Loader(
        data,
        "train",
        config.batch_size,
        train=True,
        seed=config.seed,
        device=device,
        sampler=method.sampler,
        rank=rank,
        world_size=world,
    )
    _check_micro_batches(config, world, method.sampler)
    total = min(config.epochs * len(loader), config.max_steps or config.epochs * len(loader))
    plan = stretches(method.phases(), total)
    info = describe(config, data)
    accuracy = MulticlassAccuracy(len(data.classes), average="micro", validate_args=False).to(device)

    # where an earlier run in this folder stopped
    run = RunState()
    optimizer: torch.optim.Optimizer | None = None
    checkpoints = None if folder is None else Checkpoints(folder, _identity(config, data, world))
    saved = distributed.from_rank_0(checkpoints.load() if checkpoints is not None and rank == 0 else None)
    if saved is not None:
        run = restore(saved, method=method, ema=ema, precision=precision, accuracy=accuracy, device=device)

    def save() -> None:
        check_weights(method, run.step)
        if checkpoints is not None and optimizer is not None:
            parts = {"method": method, "ema": ema, "precision": precision, "accuracy": accuracy}
            state = snapshot(run, optimizer=optimizer, device=device, **parts)  # type: ignore[arg-type]
            state["info"] = asdict(info)
            if rank == 0:
                checkpoints.save(run.step, state)

    start_memory(device)
    events = folder / "tensorboard" if folder is not None and tensorboard and rank == 0 else None
    with Progress(total, start=run.step, show=progress and rank == 0, tensorboard=events) as bar:
        while run.step < total:
            epoch, done = divmod(run.step, len(loader))
            train_mode(method)
            clock = time.perf_counter()
            for images, labels, _ in loader.epoch(epoch, start=done):
                # a new phase: what is frozen, the optimizer, and with them the gradients that processes exchange
                stretch = next(s for s in plan if s.start <= run.step < s.stop)
                if optimizer is None or run.step == stretch.start:
                    optimizer = start_phase(method, stretch.phase, config)
                    if saved is not None and saved["phase"] == stretch.index:
                        optimizer.load_state_dict(saved["optimizer"])
                    saved, run.phase = None, stretch.index
                    train_mode(method)
                    model: nn.Module = Compiled(method) if config.compile else method
                    if world > 1:
                        model = DistributedDataParallel(model, broadcast_buffers=False)
                lr = learning_rate(config, stretch, run.step, total)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_scale"]

                states, terms, stopping = forward_backward(
                    model, images, labels, config.accumulate, precision, accuracy, stop
                )
                check_finite(terms, run.step)
                if optimizer_step(optimizer, precision, clip=config.clip):
                    with torch.no_grad():
                        method.after_step(states)
                    if ema is not None:
                        ema.update_parameters(method)
                else:  # float16 gradients overflowed: nothing moves, nor does the method
                    run.skipped += 1
                run.count(terms)
                bar.step(run.step, terms, lr=lr, images=config.batch_size)

                if run.step == total or run.step % len(loader) == 0:
                    break  # the epoch is over; it saves below
                if stopping or (save_every and run.step % save_every == 0):
                    run.epoch_seconds += time.perf_counter() - clock
                    save()
                    clock = time.perf_counter()
                if stopping:
                    raise Stopped

            # the end of an epoch
            synchronize(device)
            run.epoch_seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            distributed.copy_buffers(evaluated)
            scores = evaluate(evaluated, data, "val")
            row = {"epoch": epoch + 1, "phase": stretch.phase.name, "lr": lr, **run.means()}
            row |= {"train_accuracy": float(accuracy.compute())}
            row |= {"val_accuracy": scores["accuracy"], "val_loss": scores["loss"], "seconds": run.epoch_seconds}
            run.end_epoch(row, evaluation_seconds=time.perf_counter() - clock)
            accuracy.reset()
            bar.epoch(run.step, row)
            save()
            if stopping and run.step < total:
                raise Stopped

    # the end of the run: the test split, once
    test = evaluate(evaluated, data, "test")
    final = {key: float(run.history[-1][key]) for key in ("train_accuracy", "val_accuracy", "val_loss")}
    final |= {"test_accuracy": test["accuracy"], "test_loss": test["loss"]}
    seconds = sum(row["seconds"] for row in run.history)
    timing = {
        "train_seconds": seconds,
        "evaluation_seconds": run.evaluation_seconds,
        "images_per_second": run.step * config.batch_size / seconds,
        "steps": run.step,
        "skipped_steps": run.skipped,
    }
    if folder is not None and rank == 0:
        save_trained(folder / "model.pt", evaluated, info)
    return Fitted(evaluated.eval(), run.history, final, timing, peak_memory(device), device_name(device))


def _check_micro_batches(config: Config, world: int, sampler: tuple[int, int] | None) -> None:
    rows, rest = divmod(config.batch_size, world * config.accumulate)
    if rest:
        raise ValueError(
            f"batch_size {config.batch_size} does not split evenly over {world} processes "
            f"× {config.accumulate} micro-batches"
        )
    if sampler is not None and rows % (sampler[0] * sampler[1]):
        raise ValueError(
            f"a micro-batch of {rows} images is not a multiple of {sampler[0]} classes × {sampler[1]} images: "
            "change batch_size or accumulate"
        )


def _identity(config: Config, data: ImageData, world: int) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued; measures are taken afterwards."""
    settings = {key: value for key, value in config.to_dict().items() if key != "measures"}
    return {"config": settings, "data": data.fingerprint, "processes": world}
