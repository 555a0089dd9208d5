"""Which arithmetic is fast on this processor: measured in a few steps, once, and kept (lesson 06b).

bfloat16 doubles the speed of a processor that has units for it and makes another one six times as slow; which memory
order is faster depends on the network. So nothing is assumed: the given network is timed with each choice.
"""

import contextlib
import copy
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill_utils import _store, _validate, settings

# A choice that changes the model a little must be worth it; one within the noise of a few steps is none.
_WORTH_IT = 1.05


class Choice(NamedTuple):
    """How to compute, and how many times as fast that is as float32 in torch's default memory order."""

    bf16: bool
    channels_last: bool
    ratio: float

    def __str__(self) -> str:
        number = "bfloat16" if self.bf16 else "float32"
        order = "channels_last" if self.channels_last else "contiguous"
        return f"{number}, {order}: {self.ratio:.1f} × plain on {processor()}"


def choose(model: nn.Module, images: Tensor) -> Choice:
    """The fastest way to train this network on its device, in float32 or bfloat16 and either memory order.

    images: a batch, float N×channels×H×W. Takes up to five forward and backward passes of a copy of the model for
    each of three choices, a second for the series' students, and keeps the answer under runs/ by processor, torch,
    threads, network and shape. Plain float32 is kept unless another choice is at least 5 % faster in the median
    round, so that noise never chooses.
    """
    _validate.full_precision(model, "timed")
    device = next(model.parameters()).device
    key = {"processor": processor(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
           "network": repr(model), "shape": list(images.shape)}

    kept = settings.runs_folder() / f"speed-{_store.digest(key)}.json"
    if not kept.exists():
        _store.write_json(kept, [*_fastest(copy.deepcopy(model).train(), images.to(device))])
    return Choice(*_store.read_json(kept))


def _fastest(model: nn.Module, images: Tensor) -> Choice:
    plain, others = (False, False), [(False, True), (True, True)]
    count = 8  # images: enough of them to measure, few enough for a large network
    while _seconds(model, images[:count], *plain) < 0.02 and count < len(images):
        count *= 2
    batch = images[:count]
    # The first pass of a kind is slower than the next ones. An option that is twice as slow even so is left out.
    limit = 2 * _seconds(model, batch, *plain)
    others = [option for option in others if _seconds(model, batch, *option) < limit]
    ratios: dict = {option: [] for option in others}
    for _ in range(5):  # in turns, so that a busy moment meets all of them
        reference = _seconds(model, batch, *plain)
        for option in others:
            ratios[option].append(reference / _seconds(model, batch, *option))
    medians = {option: statistics.median(values) for option, values in ratios.items()}
    best = max(medians, key=medians.__getitem__, default=plain)
    bf16, channels_last = best if medians.get(best, 0) >= _WORTH_IT else plain
    return Choice(bf16, channels_last, medians.get((bf16, channels_last), 1.0))


def _seconds(model: nn.Module, batch: Tensor, bf16: bool, channels_last: bool) -> float:
    """What one forward and backward pass takes: of the processor's time, or of the clock's on a GPU."""
    on_gpu = batch.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    order = memory_order(channels_last)
    model, batch = model.to(memory_format=order), batch.contiguous(memory_format=order)
    start = clock()
    with torch.enable_grad(), torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
        outputs = model(batch)
    torch.autograd.grad(outputs.float().square().mean(), [p for p in model.parameters() if p.requires_grad])
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def memory_order(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def processor(device: torch.device | None = None) -> str:
    """The name of the processor or GPU, and its units for narrow numbers where the system tells."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
        name, flags = facts.get("model name", name), facts.get("flags", "")
    units = [unit for unit in ("amx_bf16", "avx2", "avx512_bf16") if unit in flags.split()]
    return f"{name} ({', '.join(units)})" if units else name
