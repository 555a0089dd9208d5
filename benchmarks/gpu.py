"""Distillation of a CIFAR-size student on a GPU: seconds per epoch, the teacher's share of a step, images a second.

    python benchmarks/gpu.py [--images 50000] [--classes 100] [--batch 512] [--steps 100] [--json FILE]

Needs torch, torchvision and numpy only, and this checkout. Images live on the GPU, are augmented there as whole
batches, and are drawn at random: speed does not depend on what they show. On a machine without a GPU it says so and
runs on the processor, so that the program itself can be tried anywhere (give it --images 2000 --steps 3).
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils import models
from distill_utils.augment import PHOTOS, augment
from distill_utils.losses import distillation_loss, hard_label_loss

TEMPERATURE, ALPHA = 4.0, 0.9


def steps(kind: str, student, teacher, recorded, images, labels, batch: int, count: int, *, bf16: bool):
    """Train for `count` steps; kind: "alone", "cached" or "online". Yields after each step."""
    device = images.device
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    student.train()
    for step in range(count):
        if step % (len(images) // batch) == 0:
            order = torch.randperm(len(images), device=device)
        index = order[step % (len(images) // batch) * batch :][:batch]
        seen = augment(images[index], index, 0, PHOTOS).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = student(seen)
            if kind == "online":
                with torch.no_grad():
                    answers = teacher(seen)
        if kind == "alone":
            loss = hard_label_loss(outputs.float(), labels[index])
        else:
            answers = recorded[index] if kind == "cached" else answers
            loss = distillation_loss(outputs.float(), answers.float(), labels[index], TEMPERATURE, ALPHA)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def seconds(device, work) -> float:
    """Of one call of work, when everything it started is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100, help="of each kind in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} processor (no GPU here)"
    print(f"{name}, torch {torch.__version__}")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    images = torch.rand(chosen.images, 3, 32, 32, device=device)
    labels = torch.randint(chosen.classes, (chosen.images,), device=device)
    recorded = torch.randn(chosen.images, chosen.classes, device=device).half()
    teacher = models.build("resnet", chosen.classes, 3, width=64, blocks=3).to(device).eval().requires_grad_(False)
    student = models.build("resnet", chosen.classes, 3, width=16, blocks=1).to(device)
    print(f"teacher {_size(teacher)}, student {_size(student)}, batch {chosen.batch}, bfloat16\n")

    def run(kind):
        for _ in steps(kind, student, teacher, recorded, images, labels, chosen.batch, chosen.steps, bf16=True):
            pass

    taken = {kind: [] for kind in ("alone", "cached", "online")}
    for round_ in range(chosen.rounds + 1):
        for kind, values in taken.items():
            duration = seconds(device, lambda kind=kind: run(kind))
            if round_ > 0:  # the first round chooses kernels
                values.append(duration / chosen.steps)
    rows = {}
    for kind, values in taken.items():
        step = statistics.median(values)
        rows[kind] = {"ms_per_step": 1000 * step, "images_per_second": chosen.batch / step,
                      "seconds_per_epoch": step * (chosen.images // chosen.batch)}  # fmt: skip
        print(f"{kind:8}{1000 * step:9.2f} ms a step{chosen.batch / step:14,.0f} images/s"
              f"{rows[kind]['seconds_per_epoch']:10.2f} s an epoch")  # fmt: skip
    share = 1 - rows["cached"]["ms_per_step"] / rows["online"]["ms_per_step"]
    ratio = rows["cached"]["images_per_second"] / rows["alone"]["images_per_second"]
    print(f"\nthe teacher's share of an online step: {share:.0%}; cached against the student alone: {ratio:.2f}")
    if chosen.json:
        result = {"benchmark": "gpu", "device": name, "torch": torch.__version__,
                  "settings": vars(chosen) | {"json": None},
                  "rows": rows, "teacher_share": share, "cached_to_alone": ratio}  # fmt: skip
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _size(model) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"


if __name__ == "__main__":
    sys.exit(main())
