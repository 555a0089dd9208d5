"""The one training loop of the series, for teachers, students and trees alike.

What a step sees is a pure function of (seed, step): the order of the images, their augmented views and the learning
rate need no memory. So two methods with one seed see the same batches, and a killed run goes on bit for bit from its
last checkpoint. Left out on purpose: early stopping (choices are made on validation by the caller), gradient
clipping, and the test set, which fit never receives.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill_utils import counter, progress, store
from distill_utils.augment import Augmentation, augment
from distill_utils.data import ImageSet


@dataclass(frozen=True)
class Schedule:
    """How long and how a network is trained."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 4e-3  # AdamW's peak learning rate, see one_cycle
    weight_decay: float = 0.01
    views: int = 0  # augmented views to go through, one an epoch, then again; 0: the images as they are


class Batch(NamedTuple):
    """What a loss may look at. index: positions in the training set; teacher_logits: None without a teacher;
    done: the share of training that lies behind, in [0, 1)."""

    images: Tensor  # N×channels×H×W
    labels: Tensor  # N
    index: Tensor  # N
    teacher_logits: Tensor | None  # N×C
    done: float


class TrainingDiverged(RuntimeError):
    """The loss or a weight stopped being a finite number."""


Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def one_cycle(done: float) -> float:
    """Learning rate as a share of its peak, after a share `done` of training: up for 20 %, then a cosine to 0."""
    warm_up = 0.2
    if done < warm_up:
        return 0.04 + 0.96 * done / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def fit(model: nn.Module, train: ImageSet, loss: Loss, schedule: Schedule = Schedule(), *, seed: int = 0,
        augmentation: Augmentation = Augmentation(), teacher: Tensor | nn.Module | None = None,
        validation: ImageSet | None = None, checkpoint: Path | None = None, what: str = "training",
        quiet: bool = False) -> dict[str, list]:  # fmt: skip
    """Train model in place.

    loss(model, batch) returns the scalar to minimise and a dict of its parts to record; teacher: recorded logits,
    views×N×C (see teacher_cache), looked up by view and position, or a network, which is asked at every step, stays
    in eval mode and gets no gradient; checkpoint: a path to save to at every report (at most twenty in a run) and to
    go on from, bit for bit.
    Returns the history: lists "step", "loss", each part, and "validation_accuracy" in [0, 1] at twenty points.
    Raises TrainingDiverged, with the steps, when the loss or a weight is no finite number; ValueError for no images.
    """
    if len(train) == 0:
        raise ValueError("there is nothing to train on: the image set is empty")
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    run = _Run(model, optimizer, checkpoint, key={"schedule": asdict(schedule), "seed": seed, "images": len(train)})
    period = math.ceil(schedule.steps / 20)
    with _random_state(seed), _frozen(teacher), progress.bar(schedule.steps, what, quiet=quiet) as bar:
        step = run.resume()
        bar.update(step)
        model.train()
        totals = {}
        while step < schedule.steps:
            batch = _batch(train, step, schedule, seed, augmentation, teacher)
            total, parts = loss(model, batch)
            optimizer.zero_grad()
            total.backward()
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * one_cycle(step / schedule.steps)
            optimizer.step()
            for name, value in {"loss": total, **parts}.items():
                totals[name] = totals.get(name, 0) + value.detach()
            step += 1
            bar.update()
            if step % period == 0 or step == schedule.steps:
                count = (step - 1) % period + 1
                run.report(step, {name: float(value) / count for name, value in totals.items()}, count)
                if validation is not None:
                    accuracy = (logits(model, validation.images).argmax(1) == validation.labels).float().mean()
                    run.history.setdefault("validation_accuracy", []).append(float(accuracy))
                run.save(step)
                totals = {}
    model.eval()
    return run.history


def _batch(train, step, schedule, seed, augmentation, teacher) -> Batch:
    per_epoch = max(1, len(train) // schedule.batch_size)
    epoch, place = divmod(step, per_epoch)
    index = _order(seed, epoch, len(train))[place * schedule.batch_size : (place + 1) * schedule.batch_size]
    images, view = train.images[index], 0
    if schedule.views:
        view = epoch % schedule.views
        images = augment(images, index, view, augmentation)
    images = images.contiguous(memory_format=torch.channels_last)
    teacher_logits = None
    if isinstance(teacher, nn.Module):
        with torch.no_grad():
            teacher_logits = teacher(images)
    elif teacher is not None:
        teacher_logits = teacher[view][index].float()
    return Batch(images, train.labels[index], index, teacher_logits, step / schedule.steps)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Tensor:
    return counter.permutation(seed, f"epoch {epoch}", length)


class _Run:
    """Where a run stands: its history, and its checkpoint if it keeps one."""

    def __init__(self, model, optimizer, path, key):
        self.model, self.optimizer, self.path, self.key = model, optimizer, path, key
        self.history = {"step": []}

    def report(self, step: int, means: dict, count: int) -> None:
        ruined = not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if ruined or not all(math.isfinite(value) for value in means.values()):
            kept = f"; the last good checkpoint is kept at {self.path}" if self.path and self.path.exists() else ""
            values = ", ".join(f"{name} = {value:g}" for name, value in means.items())
            what = "a weight" if ruined else "the loss"
            raise TrainingDiverged(
                f"{what} is no finite number between steps {step - count + 1} and {step} ({values}): "
                f"try a lower learning rate than {self.key['schedule']['lr']:g}{kept}"
            )
        self.history["step"].append(step)
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)

    def save(self, step: int) -> None:
        if self.path is None:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        tensors["random_state"] = torch.get_rng_state()
        store.save(self.path, tensors, {"key": self.key, "step": step, "history": self.history})

    def resume(self) -> int:
        if self.path is None or not self.path.exists():
            return 0
        tensors, record = store.load(self.path)
        if record["key"] != self.key:
            raise store.DamagedFile(f"{self.path} is the checkpoint of another run: delete it and run again")
        self.model.load_state_dict(_below(tensors, "model."))
        state = {}
        for name, value in _below(tensors, "optimizer.").items():
            i, name = name.split(".")
            state.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():  # a fused step reads both in the memory order of the weights
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        torch.set_rng_state(tensors["random_state"])
        self.history = record["history"]
        return record["step"]


def _below(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """torch's global generator (dropout draws from it) starts from seed and is given back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _frozen(teacher) -> Iterator[None]:
    """A teacher network stays in eval mode, so that what it says of an image depends on that image alone."""
    if not isinstance(teacher, nn.Module):
        yield
        return
    was_training = teacher.training
    teacher.eval()
    try:
        yield
    finally:
        teacher.train(was_training)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """The model's logits on images in eval mode, N×C; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    try:
        batches = images.split(batch_size)
        return torch.cat([model(part.contiguous(memory_format=torch.channels_last)) for part in batches])
    finally:
        model.train(was_training)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> None:
    """Set every BatchNorm's recorded mean and variance to those of these images, in place (PreciseBN, Wu and
    Johnson 2021): the variance over all images, including that between batch means, which
    torch.optim.swa_utils.update_bn leaves out. Dropout stays off; weights do not change.

    Layers are set one after the other, since the statistics of each depend on those before it.
    """
    was_training = model.training
    model.eval()
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        sums = {"count": 0, "mean": 0.0, "square": 0.0}

        def add(module, inputs, sums=sums):
            x = inputs[0].double()
            sums["count"] += x.numel() // x.shape[1]
            sums["mean"] = sums["mean"] + x.sum((0, 2, 3))
            sums["square"] = sums["square"] + (x**2).sum((0, 2, 3))

        hook = norm.register_forward_pre_hook(add)
        try:
            logits(model, images, batch_size=batch_size)
        finally:
            hook.remove()
        mean = sums["mean"] / sums["count"]
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(sums["square"] / sums["count"] - mean**2)
    model.train(was_training)
