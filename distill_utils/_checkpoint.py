"""What a training run accumulates: its history, the sums since the last report, and its checkpoint on disk.

A run that was killed continues from its last checkpoint with bit-identical weights. The first process of several
writes the checkpoint, all read it.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill_utils import _store


class TrainingDiverged(RuntimeError):
    """The loss or a weight became NaN or infinite."""


class OtherRun(_store.DamagedFile):
    """A checkpoint was written by a run with another loss, teacher, schedule or set of images."""


class TrainState:
    """The state of a run of training.fit. key: what must be equal for a checkpoint to be continued."""

    def __init__(self, model: nn.Module, optimizer, path: Path | None, key: dict, device: torch.device):
        self.model, self.optimizer, self.path, self.device = model, optimizer, path, device
        shapes = {name: list(values.shape) for name, values in model.state_dict().items()}
        self.key = key | {"weights": _store.digest(shapes)}
        self.history: dict[str, list] = {"step": []}
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def report(self, step: int) -> None:
        """Append the means since the last report to the history."""
        totals = torch.stack([*self.sums.values()]).double()
        _, processes = rank_and_world_size()
        if processes > 1:
            dist.all_reduce(totals)
        means = dict(zip(self.sums, (totals / (self.count * processes)).tolist(), strict=True))
        self._raise_if_diverged(step, means)
        self.history["step"].append(step)
        for name, value in means.items():
            self.history.setdefault(name, []).append(value)
        self.sums, self.count = {}, 0

    def _raise_if_diverged(self, step: int, means: dict[str, float]) -> None:
        diverged = not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if not diverged and all(math.isfinite(value) for value in means.values()):
            return
        kept = f"; the last good checkpoint is kept at {self.path}" if self.path and self.path.exists() else ""
        values = ", ".join(f"{name} = {value:g}" for name, value in means.items())
        raise TrainingDiverged(
            f"{'a weight' if diverged else 'the loss'} became NaN or inf between steps {step - self.count + 1} and "
            f"{step} ({values}): try a lower learning rate than {self.key['schedule']['lr']:g}{kept}"
        )

    def save(self, step: int) -> None:
        if self.path is None:
            return
        # Also between two reports, or a diverged state would replace the last good one.
        self._raise_if_diverged(step, {name: float(value) / self.count for name, value in self.sums.items()})
        rank, processes = rank_and_world_size()
        states = [_generator_state(self.device)]
        if processes > 1:
            own = states[0].to(self.device)
            states = [torch.empty_like(own) for _ in range(processes)]
            dist.all_gather(states, own)
        if rank > 0:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        tensors |= {f"random_state.{i}": state for i, state in enumerate(states)}
        tensors |= {f"sum.{name}": value for name, value in self.sums.items()}
        _store.save(self.path, tensors, {"key": self.key, "step": step, "history": self.history, "count": self.count})

    def resume(self) -> int:
        """Restore the last checkpoint and return its step; 0 where there is none."""
        if self.path is None or not self.path.exists():
            return 0
        tensors, record = _store.load(self.path)
        if record.get("key") != self.key:
            difference = _store.describe_difference(self.key, record.get("key"))
            raise OtherRun(f"{self.path} is the checkpoint of another run ({difference}): move it away")
        self.model.load_state_dict(with_prefix(tensors, "model."))
        state: dict[int, dict] = {}
        for name, value in with_prefix(tensors, "optimizer.").items():
            i, name = name.split(".")
            state.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():  # a fused step reads both in the memory order of the weights
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        rank, processes = rank_and_world_size()
        if f"random_state.{processes - 1}" in tensors:
            _generator_state(self.device, tensors[f"random_state.{rank}"])
        self.sums = {name: value.to(self.device) for name, value in with_prefix(tensors, "sum.").items()}
        self.history, self.count = record["history"], record["count"]
        return record["step"]


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and how many processes train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def describe_loss(loss: Callable) -> dict:
    """A loss in JSON: its name, a digest of its code, and the values that it was given or refers to.

    functools.partial is taken apart; what functools.wraps marks as a wrapper counts as what it wraps.
    """
    options: dict = {}
    while isinstance(loss, functools.partial):
        options = {str(i): value for i, value in enumerate(loss.args)} | loss.keywords | options
        loss = loss.func
    loss = inspect.unwrap(loss)
    code = getattr(loss, "__code__", None)
    if code is not None:
        names = inspect.getclosurevars(loss)
        options = {**names.globals, **names.nonlocals, **(loss.__kwdefaults__ or {}), **options}
    return {
        "name": getattr(loss, "__qualname__", type(loss).__qualname__),
        "code": _store.digest(_code(code)) if code else None,
        "options": {name: _described(value) for name, value in sorted(options.items())},
    }


def _code(code: CodeType) -> list:
    constants: list = []
    for value in code.co_consts:
        if isinstance(value, CodeType):
            constants.append(_code(value))
        else:  # the order of a set changes from process to process
            constants.append(sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value))
    return [code.co_code.hex(), constants, list(code.co_names)]


def _described(value):
    """A value in JSON: numbers and words as they are, the checksum of a tensor, the type of anything else."""
    if isinstance(value, tuple):  # a list may be something that the loss appends to
        return [_described(part) for part in value]
    if isinstance(value, Tensor):
        return _store.checksum({"": value})[:16]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return type(value).__name__


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """torch's global generator starts from this seed inside the block, and is given back as it was."""
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _generator_state(device: torch.device, new: Tensor | None = None) -> Tensor:
    """The state of the device's global generator; new: what to set it to."""
    module, where = (torch.cuda, (device,)) if device.type == "cuda" else (torch, ())
    if new is not None:
        module.set_rng_state(new.cpu(), *where)
    return module.get_rng_state(*where)
