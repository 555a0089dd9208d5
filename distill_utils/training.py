"""The one training loop of the series, for teachers, students and trees alike.

What a step sees is a pure function of (seed, step): the order of the images, their augmented views and the learning
rate need no memory. So two methods with one seed see the same batches, and a killed run goes on bit for bit from its
last checkpoint. Left out on purpose: early stopping (choices are made on validation by the caller), gradient
clipping, and the test set, which fit never receives.

It trains where the model is, on a processor or a GPU, and on as many processes as torch.distributed has joined: each
takes an equal share of every batch, so the batches, and with them the model, are those of a single process.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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
    bf16: bool = False  # convolutions and products in bfloat16; losses, weights and sums stay float32


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
        validation: ImageSet | None = None, checkpoint: Path | None = None, checkpoint_every: int | None = None,
        what: str = "training", quiet: bool = False) -> dict[str, list]:  # fmt: skip
    """Train model in place, on its own device; call model.compile() before to have its steps compiled.

    loss(model, batch) returns the scalar to minimise and a dict of its parts to record; teacher: recorded logits,
    views×N×C (see teacher_cache), looked up by view and position, or a network, which is asked at every step, stays
    in eval mode and gets no gradient; checkpoint: a path to save to every checkpoint_every steps (default:
    at every report, at most twenty in a run) and to go on from, bit for bit; every process must see it.
    Returns the history: lists "step", "loss", each part, and "validation_accuracy" in [0, 1] at twenty points.
    Raises TrainingDiverged, with the steps, when the loss or a weight is no finite number; ValueError for no images,
    or for a batch that cannot be shared out evenly.
    """
    if len(train) == 0:
        raise ValueError("there is nothing to train on: the image set is empty")
    rank, processes = _place()
    check_share(min(schedule.batch_size, len(train)), processes)
    device = next(model.parameters()).device
    images, labels = train.images.to(device), train.labels.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    key = {"schedule": asdict(schedule), "seed": seed, "images": len(train)}
    run = _Run(model, optimizer, checkpoint, key, device)
    period = math.ceil(schedule.steps / 20)
    with (
        _random_state(seed, rank, device),
        _frozen(teacher),
        _narrow(model, device, schedule.bf16),
        progress.bar(schedule.steps, what, quiet=quiet or rank > 0) as bar,
    ):
        network = DistributedDataParallel(model) if processes > 1 else model
        step = run.resume()
        bar.update(step)
        model.train()
        while step < schedule.steps:
            batch = _batch(images, labels, step, schedule, seed, augmentation, teacher)
            total, parts = loss(network, batch)
            optimizer.zero_grad()
            total.backward()
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * one_cycle(step / schedule.steps)
            optimizer.step()
            run.add({"loss": total, **parts})
            step += 1
            bar.update()
            if step % period == 0 or step == schedule.steps:
                run.report(step)
                if validation is not None:
                    accuracy = (logits(model, validation.images).argmax(1) == validation.labels).float().mean()
                    run.history.setdefault("validation_accuracy", []).append(float(accuracy))
            if step % (checkpoint_every or period) == 0 or step == schedule.steps:
                run.save(step)
    model.eval()
    return run.history


def check_share(batch_size: int, processes: int) -> None:
    """Raise ValueError unless every process gets an equal share of a batch, without which means would be skewed."""
    if batch_size % processes:
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {processes} processes: change either"
        )


def _place() -> tuple[int, int]:
    """This process's rank and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _batch(images, labels, step, schedule, seed, augmentation, teacher) -> Batch:
    per_epoch = max(1, len(labels) // schedule.batch_size)
    epoch, place = divmod(step, per_epoch)
    index = _order(seed, epoch, len(labels))[place * schedule.batch_size : (place + 1) * schedule.batch_size]
    rank, processes = _place()
    index = index[rank * len(index) // processes : (rank + 1) * len(index) // processes]
    view = epoch % schedule.views if schedule.views else 0
    teacher_logits = None
    if teacher is not None and not isinstance(teacher, nn.Module):
        teacher_logits = teacher[view][index].float().to(images.device)
    index = index.to(images.device)
    seen = images[index]
    if schedule.views:
        seen = augment(seen, index, view, augmentation)
    seen = seen.contiguous(memory_format=torch.channels_last)
    if isinstance(teacher, nn.Module):
        with torch.no_grad():
            teacher_logits = teacher(seen)
    return Batch(seen, labels[index], index, teacher_logits, step / schedule.steps)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Tensor:
    return counter.permutation(seed, f"epoch {epoch}", length)


class _Run:
    """Where a run stands: its history, what has come together since the last report, and its checkpoint if it keeps
    one. The first process writes it, all read it."""

    def __init__(self, model, optimizer, path, key, device):
        self.model, self.optimizer, self.path, self.device = model, optimizer, path, device
        shapes = {name: list(values.shape) for name, values in model.state_dict().items()}
        self.key = key | {"weights": store.digest(shapes)}
        self.history: dict[str, list] = {"step": []}
        self.sums, self.count = {}, 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def report(self, step: int) -> None:
        rank, processes = _place()
        totals = torch.stack([*self.sums.values()]).double()
        if processes > 1:
            dist.all_reduce(totals)
        means = dict(zip(self.sums, (totals / (self.count * processes)).tolist(), strict=True))
        self.refuse_ruin(step, means)
        self.history["step"].append(step)
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)
        self.sums, self.count = {}, 0

    def refuse_ruin(self, step: int, means: dict[str, float]) -> None:
        ruined = not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if ruined or not all(math.isfinite(value) for value in means.values()):
            kept = f"; the last good checkpoint is kept at {self.path}" if self.path and self.path.exists() else ""
            values = ", ".join(f"{name} = {value:g}" for name, value in means.items())
            what = "a weight" if ruined else "the loss"
            raise TrainingDiverged(
                f"{what} is no finite number between steps {step - self.count + 1} and {step} ({values}): "
                f"try a lower learning rate than {self.key['schedule']['lr']:g}{kept}"
            )

    def save(self, step: int) -> None:
        if self.path is None:
            return
        # Also between two reports, or a ruined state would replace the last good one.
        self.refuse_ruin(step, {name: float(value) / self.count for name, value in self.sums.items()})
        rank, processes = _place()
        states = [_generator_state(self.device)]
        if processes > 1:
            mine = states[0].to(self.device)
            states = [torch.empty_like(mine) for _ in range(processes)]
            dist.all_gather(states, mine)
        if rank > 0:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        tensors |= {f"random_state.{i}": state for i, state in enumerate(states)}
        tensors |= {f"sum.{name}": value for name, value in self.sums.items()}
        store.save(self.path, tensors, {"key": self.key, "step": step, "history": self.history, "count": self.count})

    def resume(self) -> int:
        """The step to go on from, with everything else as it was then."""
        if self.path is None or not self.path.exists():
            return 0
        tensors, record = store.load(self.path)
        if record.get("key") != self.key:
            differing = store.differing(self.key, record.get("key"))
            raise store.DamagedFile(f"{self.path} is the checkpoint of another run ({differing}): move it away")
        self.model.load_state_dict(_below(tensors, "model."))
        state: dict[int, dict] = {}
        for name, value in _below(tensors, "optimizer.").items():
            i, name = name.split(".")
            state.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():  # a fused step reads both in the memory order of the weights
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        rank, processes = _place()
        if f"random_state.{processes - 1}" in tensors:
            _generator_state(self.device, tensors[f"random_state.{rank}"])
        self.sums = {name: value.to(self.device) for name, value in _below(tensors, "sum.").items()}
        self.history, self.count = record["history"], record["count"]
        return record["step"]


def _below(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _random_state(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """torch's global generator (dropout draws from it) starts from seed, of its own in each process, and is given
    back as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + rank * 0x9E3779B9)
        yield


def _generator_state(device: torch.device, new: Tensor | None = None) -> Tensor:
    """The state of the device's global generator; new: what to set it to."""
    module, where = (torch.cuda, (device,)) if device.type == "cuda" else (torch, ())
    if new is not None:
        module.set_rng_state(new.cpu(), *where)
    return module.get_rng_state(*where)


@contextlib.contextmanager
def _narrow(model: nn.Module, device: torch.device, bf16: bool) -> Iterator[None]:
    """Inside the model, and nowhere else, arithmetic is in bfloat16; its outputs are float32 again."""
    if not bf16:
        yield
        return
    forward = model.forward

    def narrow(*inputs):
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs).float()

    model.forward = narrow
    try:
        yield
    finally:
        del model.forward


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
    """The model's logits on images in eval mode, N×C, where the images are; the mode it was in is restored."""
    was_training = model.training
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), images.device)
    try:
        parts = (part.to(device).contiguous(memory_format=torch.channels_last) for part in images.split(batch_size))
        return torch.cat([model(part) for part in parts]).to(images.device)
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
