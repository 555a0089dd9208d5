"""The one training loop of the series, for teachers, students and trees alike (built in lesson 01).

What a step sees is a pure function of (seed, step): the order of the images, their augmented views and the learning
rate need no memory. So two methods with one seed see the same batches, and a killed run continues from its last
checkpoint with bit-identical weights. Left out on purpose: early stopping (choices are made on validation by the
caller), gradient clipping, and the test set, which fit never receives.

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

from distill_utils import _recorded, _store, _validate, speed, stateless_random, widgets
from distill_utils._checkpoint import TrainingDiverged, TrainState, describe_loss, rank_and_world_size, seeded
from distill_utils._progress import progress_bar
from distill_utils.augment import Augmentation, augment
from distill_utils.data import ImageSet

__all__ = [
    "Batch", "Loss", "Schedule", "TrainingDiverged", "check_divisible", "eval_mode", "fit", "logits", "one_cycle",
    "progress_bar", "reestimate_batch_norm", "seeded",
]


@dataclass(frozen=True)
class Schedule:
    """How long and how a network is trained."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 4e-3  # AdamW's peak learning rate, see one_cycle
    weight_decay: float = 0.01
    views: int = 0  # augmented views, one per epoch, then again from the first; 0: unaugmented images
    # Convolutions and products in bfloat16; losses, weights and sums stay float32. "auto": where that is faster on
    # this processor; then the memory order is chosen as well, see speed.choose.
    bf16: bool | str = False

    def __post_init__(self):
        for name, low in (("steps", 0), ("batch_size", 1), ("views", 0)):
            _validate.number(name, getattr(self, name), low, whole=True)
        for name in ("lr", "weight_decay"):
            _validate.number(name, getattr(self, name), 0)
        if self.bf16 not in (False, True, "auto"):
            raise ValueError(f'bf16 must be True, False or "auto", got {self.bf16!r}')


class Batch(NamedTuple):
    """What a loss sees. index: positions in the training set; teacher_logits: None without a teacher; progress: the
    share of training that is done, in [0, 1)."""

    images: Tensor  # N×channels×H×W
    labels: Tensor  # N
    index: Tensor  # N
    teacher_logits: Tensor | None  # N×C
    progress: float


Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def one_cycle(progress: float) -> float:
    """Learning rate as a share of its peak, after a share of training: up for 20 %, then a cosine to 0."""
    warm_up = 0.2
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def fit(model: nn.Module, train: ImageSet, loss: Loss, schedule: Schedule = Schedule(), *, seed: int = 0,
        augmentation: Augmentation = Augmentation(), teacher: list[Tensor] | Tensor | nn.Module | None = None,
        validation: ImageSet | None = None, checkpoint: Path | None = None, checkpoint_every: int | None = None,
        on_report: Callable[[int], None] | None = None, what: str = "training",
        quiet: bool = False) -> dict[str, list]:
    """Train model in place, on its own device; call model.compile() before to have its steps compiled.

    loss(model, batch) returns the scalar to minimise and a dict of its parts to record; teacher: recorded logits,
    views×N×C (see recipes.record), looked up by view and position, or a network, which is asked at every step, stays
    in eval mode and gets no gradient; checkpoint: a path to save to every checkpoint_every steps (default: at every
    report) and to continue from; every process must see it; on_report: called with the number of the report, 1 to 20.
    Of a model in train mode, layers that the caller has put into eval mode stay in it, so that the statistics of a
    frozen BatchNorm do not move; all others are in train mode while it trains. Afterwards the model is in eval mode.
    Returns the history: lists "step", "loss", each part, and "validation_accuracy" in [0, 1] at twenty points.
    Raises TrainingDiverged, with the steps, when the loss or a weight becomes NaN or inf; ValueError for images,
    recorded logits or a batch that cannot be trained on, or a teacher that names other classes than the model;
    DamagedFile for the checkpoint of another run.
    """
    rank, processes = rank_and_world_size()
    if checkpoint_every is not None:
        _validate.number("checkpoint_every", checkpoint_every, 1, whole=True)
    _check_run(model, train, validation, schedule, processes)
    if teacher is not None and not isinstance(teacher, nn.Module):
        _recorded.check(teacher, train.images, train.labels, schedule.views, augmentation)
    _recorded.check_classes(getattr(teacher, "classes", None), getattr(model, "classes", None))
    device = next(model.parameters()).device
    images, labels = train.images.to(device), train.labels.to(device)
    computing = _computing(model, images[: schedule.batch_size], schedule.bf16, quiet=quiet or rank > 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    key = {"schedule": asdict(schedule), "seed": seed}
    if checkpoint is not None:
        key |= {
            "images": {"count": len(train), "pixels": _recorded.fingerprint(train.images)[:16],
                       "labels": _store.digest(train.labels.tolist())},
            "augmentation": asdict(augmentation) if schedule.views else None, "loss": describe_loss(loss),
            "teacher": _teacher_digest(teacher),
        }
    state = TrainState(model, optimizer, checkpoint, key, device)
    frozen = [module for module in model.modules() if not module.training] if model.training else []
    period = math.ceil(schedule.steps / 20)
    draw = widgets.live_curve(schedule.steps, what, quiet=quiet or rank > 0)
    with (
        torch.enable_grad(),  # a caller may load or train inside torch.no_grad
        seeded(seed + rank * 0x9E3779B9, device),  # dropout draws from torch's global generator
        eval_mode(teacher) if isinstance(teacher, nn.Module) else contextlib.nullcontext(),
        _bf16_forward(model, device, computing.bf16),
        model.register_forward_hook(_check_output),
        progress_bar(schedule.steps, what, quiet=quiet or rank > 0) as bar,
    ):
        network = DistributedDataParallel(model) if processes > 1 else model
        step = state.resume()
        bar.update(step)
        model.train()
        for module in frozen:
            module.training = False
        while step < schedule.steps:
            batch = _batch(images, labels, step, schedule, seed, augmentation, teacher, computing)
            total, parts = loss(network, batch)
            optimizer.zero_grad()
            total.backward()
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * one_cycle(step / schedule.steps)
            optimizer.step()
            state.add({"loss": total, **parts})
            step += 1
            bar.update()
            if step % period == 0 or step == schedule.steps:
                state.report(step)
                if validation is not None:
                    correct = logits(model, validation.images).argmax(1) == validation.labels
                    state.history.setdefault("validation_accuracy", []).append(float(correct.float().mean()))
                draw(state.history)
                if on_report:
                    on_report(len(state.history["step"]))
            if step % (checkpoint_every or period) == 0 or step == schedule.steps:
                state.save(step)
    model.eval()
    return state.history


def _check_run(model: nn.Module, train: ImageSet, validation: ImageSet | None, schedule: Schedule,
               processes: int) -> None:
    if len(train) == 0:
        raise ValueError("cannot train on an empty image set")
    batch_size = min(schedule.batch_size, len(train))
    check_divisible(batch_size, processes)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if batch_size == processes and any(norm.training or not model.training for norm in norms):
        raise ValueError("a batch of one image has no spread that BatchNorm could estimate: raise batch_size, or put "
                         "the BatchNorm layers of a model in train mode into eval mode")
    _validate.full_precision(model, "trained", ", and use Schedule(bf16=True) for speed")
    _validate.finite_images("training set", train.images)
    if validation is not None:
        _validate.finite_images("validation set", validation.images)


def _check_output(model: nn.Module, inputs, output) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(f"a network that is trained must return logits as a tensor, got {type(output).__name__}: "
                         "wrap it in a module that does")


def _teacher_digest(teacher: list[Tensor] | Tensor | nn.Module | None) -> str | None:
    if teacher is None:
        return None
    tensors = teacher.state_dict() if isinstance(teacher, nn.Module) else dict(enumerate(teacher))
    return _store.checksum({str(name): value for name, value in tensors.items()})[:16]


def check_divisible(batch_size: int, processes: int) -> None:
    """Raise ValueError unless every process gets an equal share of a batch, without which means would be skewed."""
    if batch_size % processes:
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {processes} processes: change either"
        )


def _computing(model: nn.Module, images: Tensor, bf16: bool | str, *, quiet: bool) -> speed.Choice:
    """How to compute: as the schedule says, or what is fastest here; all processes do what the first has measured."""
    if bf16 != "auto":
        return speed.Choice(bool(bf16), channels_last=True, ratio=1.0)
    chosen = [speed.choose(model, images)]
    if rank_and_world_size()[1] > 1:
        dist.broadcast_object_list(chosen)
    if not quiet:
        print(chosen[0])
    model.to(memory_format=speed.memory_order(chosen[0].channels_last))
    return chosen[0]


def _batch(images, labels, step, schedule, seed, augmentation, teacher, computing) -> Batch:
    per_epoch = max(1, len(labels) // schedule.batch_size)
    epoch, place = divmod(step, per_epoch)
    index = _order(seed, epoch, len(labels))[place * schedule.batch_size : (place + 1) * schedule.batch_size]
    rank, processes = rank_and_world_size()
    index = index[rank * len(index) // processes : (rank + 1) * len(index) // processes]
    view = epoch % schedule.views if schedule.views else 0
    teacher_logits = None
    if teacher is not None and not isinstance(teacher, nn.Module):
        teacher_logits = teacher[view][index].float().to(images.device)
    index = index.to(images.device)
    augmented = images[index]
    if schedule.views:
        augmented = augment(augmented, index, view, augmentation)
    augmented = augmented.contiguous(memory_format=speed.memory_order(computing.channels_last))
    if isinstance(teacher, nn.Module):
        with torch.no_grad():
            teacher_logits = _recorded.answer(teacher, augmented)
        if step == 0:
            _recorded.check_order(teacher_logits, labels[index], getattr(teacher, "classes", None))
    return Batch(augmented, labels[index], index, teacher_logits, step / schedule.steps)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Tensor:
    return stateless_random.permutation(seed, f"epoch {epoch}", length)


@contextlib.contextmanager
def _bf16_forward(model: nn.Module, device: torch.device, bf16: bool) -> Iterator[None]:
    """Inside the model, and nowhere else, arithmetic is in bfloat16; its outputs are float32 again."""
    if not bf16:
        yield
        return
    forward = model.forward

    def autocast_forward(*inputs):
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs).float()

    model.forward = autocast_forward
    try:
        yield
    finally:
        del model.forward


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode inside the block; afterwards every module is in the mode it was in, so that a BatchNorm
    layer that was frozen stays frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """The model's logits in eval mode, N×C, on the device of the images; the modes of its modules are restored.

    A network in half precision is asked in half precision and answers in float32; of a tuple or dict of outputs the
    logits are taken (see _recorded.logits_of). Raises ValueError for outputs without them.
    """
    _validate.number("batch_size", batch_size, 1, whole=True)
    device = next((parameter.device for parameter in model.parameters()), images.device)
    parts = (part.to(device).contiguous(memory_format=torch.channels_last) for part in images.split(batch_size))
    with eval_mode(model):
        return torch.cat([_recorded.answer(model, part) for part in parts]).to(images.device)


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> None:
    """Set the running mean and variance of every BatchNorm to those of these images, in place (PreciseBN, Wu and
    Johnson 2021; lesson 02): the variance over all images, including that between batch means, which
    torch.optim.swa_utils.update_bn leaves out. Dropout stays off; weights do not change.

    Layers are set one after the other, since the statistics of each depend on those before it.
    """
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        sums = {"count": 0, "mean": 0.0, "square": 0.0}

        def add(module, inputs, sums=sums):
            x = inputs[0].double()
            sums["count"] += x.numel() // x.shape[1]
            sums["mean"] = sums["mean"] + x.sum((0, 2, 3))
            sums["square"] = sums["square"] + (x**2).sum((0, 2, 3))

        with norm.register_forward_pre_hook(add):
            logits(model, images, batch_size=batch_size)
        mean = sums["mean"] / sums["count"]
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(sums["square"] / sums["count"] - mean**2)
