"""How the cost of distillation grows: with width, side, classes, images, views and processes, against a cost model.

    python benchmarks/scaling.py [--json results/benchmark-scaling.json]

Model, in CPU-seconds per image on one thread, with measured s (a training step of the student alone) and t (a forward
pass of the teacher): cached = s, online = s + t, recording V views of N images = V·N·t. P processes on P free cores
take 1/P of the time. Images, up to a million, are a file of bytes, as those of a folder of photographs are; the
teacher's logits are read from a stored recording, which torch maps into memory. Of both, what a step does not touch
takes no memory: `memory` compares the same training with a recording that is mapped and with one that is copied.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill_utils import _store, augment, losses, models, settings, speed, training  # noqa: E402
from distill_utils._folder import Photographs, Source, map_pixels  # noqa: E402
from distill_utils.data import ImageSet  # noqa: E402
from distill_utils.training import Schedule, progress_bar  # noqa: E402

BATCH, STEPS, ROUNDS = 128, 40, 3


def hard(model, batch):
    return F.cross_entropy(model(batch.images), batch.labels), {}


def soft(model, batch):
    return losses.distillation_loss(model(batch.images), batch.teacher_logits, batch.labels, 4.0, 0.9), {}


def images(count: int, classes: int = 36, side: int = 28) -> ImageSet:
    return ImageSet(torch.rand(count, 1, side, side), torch.arange(count) % classes)


def mapped_images(count: int, folder: Path, classes: int = 36) -> ImageSet:
    """Images whose pixels stay in a file."""
    path, shape = folder / "pixels", (count, 1, 28, 28)
    with open(path, "wb") as file:
        for part in torch.arange(count).split(10_000):
            file.write(np.random.default_rng(0).bytes(len(part) * 28**2))
    digests = np.zeros((count, 32), np.uint8)
    pixels = Photographs(Source(*map_pixels(path, shape), digests), torch.arange(count))
    return ImageSet(pixels, torch.arange(count) % classes)


def per_image(work, count: int) -> float:
    """CPU-microseconds per image of work(), which handles `count` images: the median of several calls after one."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        work()
        taken.append((time.process_time() - start) / count * 1e6)
    return statistics.median(taken[1:])


def step(width: int, data: ImageSet, classes: int, teacher=None) -> float:
    student = models.build("student", classes, width=width)
    schedule, loss = Schedule(steps=STEPS, batch_size=BATCH), hard if teacher is None else soft
    return per_image(lambda: training.fit(student, data, loss, schedule, teacher=teacher, quiet=True), STEPS * BATCH)


def student_costs(widths=(4, 8, 16, 32)) -> list[dict]:
    """Alone, cached and online over the student's width, beside what the model says."""
    data, rows = images(3000), []
    teacher = models.build("teacher", 36).eval().requires_grad_(False)
    recorded = [torch.randn(3000, 36).half()]
    forward = per_image(lambda: training.logits(teacher, data.images, batch_size=BATCH), 3000)
    for width in widths:
        alone = step(width, data, 36)
        for kind, given, model in (("cached", recorded, alone), ("online", teacher, alone + forward)):
            rows.append({"grows": "width", "x": width, "kind": kind, "measured": step(width, data, 36, given),
                         "model": model, "alone": alone})  # fmt: skip
    return rows


def class_costs(counts=(10, 100, 1000)) -> list[dict]:
    """A cached step over the number of classes; the model: the student alone with as many classes."""
    rows = []
    for classes in counts:
        data = images(3000, classes)
        cached = step(8, data, classes, [torch.randn(3000, classes).half()])
        rows.append({"grows": "classes", "x": classes, "kind": "cached", "measured": cached,
                     "model": step(8, data, classes)})  # fmt: skip
    return rows


def image_costs(counts=(1000, 10_000, 100_000, 1_000_000)) -> list[dict]:
    """A cached step over the number of images; the model: as with the fewest, since a step sees one batch."""
    measured = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(step(8, mapped_images(count, Path(folder)), 36, [torch.randn(count, 36).half()]))
    return [{"grows": "images", "x": count, "kind": "cached", "measured": value, "model": measured[0]}
            for count, value in zip(counts, measured, strict=True)]  # fmt: skip


def side_costs(sides=(14, 28, 56, 112)) -> list[dict]:
    """A cached step over the side of the images; the model: the number of pixels."""
    measured = [step(8, images(500, side=side), 36, [torch.randn(500, 36).half()]) for side in sides]
    return [
        {"grows": "side", "x": x, "kind": "cached", "measured": value, "model": measured[1] * (x / sides[1]) ** 2}
        for x, value in zip(sides, measured, strict=True)
    ]


def recording_costs(views=(1, 2, 4, 8), count=1000) -> list[dict]:
    """Recording V augmented views, per image; the model: V times one view."""
    teacher, data = models.build("teacher", 36).eval(), images(count)
    everyone = torch.arange(count)

    def record(amount):
        for view in range(amount):
            training.logits(teacher, augment.augment(data.images, everyone, view, augment.GLYPHS))

    measured = [per_image(lambda amount=amount: record(amount), count) for amount in views]
    return [{"grows": "views", "x": amount, "kind": "recording", "measured": value, "model": measured[0] * amount}
            for amount, value in zip(views, measured, strict=True)]  # fmt: skip


def process_costs(counts=(1, 2)) -> list[dict]:
    """Wall-clock microseconds per image of training.fit under torchrun, one thread each; the model: 1/P of one."""
    measured = []
    for count in counts:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
                   __file__, "--worker", "step"]  # fmt: skip
        out = subprocess.run(command, env=_environment(), check=True, capture_output=True, text=True).stdout
        measured.append(float(out.split()[-1]))
    return [{"grows": "processes", "x": count, "kind": "wall clock", "measured": value, "model": measured[0] / count}
            for count, value in zip(counts, measured, strict=True)]  # fmt: skip


def worker_step() -> None:
    """What each process of process_costs runs; the first prints its median."""
    from distill_utils.commands import train

    torch.set_num_threads(1)
    processes = int(os.environ["WORLD_SIZE"])
    data, taken = images(3000), []
    student = models.build("student", 36, width=24)
    with train.joined("cpu", processes):
        for _ in range(4):
            start = time.perf_counter()
            training.fit(student, data, hard, Schedule(steps=STEPS, batch_size=2 * BATCH), quiet=True)
            taken.append((time.perf_counter() - start) / (STEPS * 2 * BATCH) * 1e6)
    if int(os.environ["RANK"]) == 0:
        print(statistics.median(taken[1:]))


def memory() -> list[dict]:
    """Megabytes of a process that trains from a recording that is mapped, and from one that is copied to memory."""
    with tempfile.TemporaryDirectory() as folder:
        run = {**_environment(), "SCALING_FOLDER": folder}
        said = [
            subprocess.run([sys.executable, __file__, "--worker", kind], check=True, capture_output=True, env=run)
            for kind in ("record", "mapped", "copied")
        ]
    return [json.loads(each.stdout) for each in said[1:]]


def worker_memory(kind: str, count=100_000, classes=1000, views=4) -> None:
    torch.set_num_threads(1)
    folder, torch_mb = Path(os.environ["SCALING_FOLDER"]), _own_mb()
    paths = [folder / f"{view}.safetensors" for view in range(views)]
    if kind == "record":
        for path in paths:
            _store.save(path, {"logits": torch.randn(count, classes).half()}, {})
        return
    recorded = [_store.load(path)[0]["logits"] for path in paths]
    if kind == "copied":
        recorded = [view.clone() for view in recorded]
    data = mapped_images(count, folder, classes)
    found = {"recording": kind, "step": step(8, data, classes, recorded), "mb_of_its_own": _own_mb()}
    found |= {"torch_mb": torch_mb, "recording_mb": sum(view.nbytes for view in recorded) / 2**20}
    print(json.dumps(found | {"images_mb": count * 28**2 / 2**20}))


def _own_mb() -> float:
    """The memory that this process holds of its own, without mapped files, whose pages the system may drop."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _environment() -> dict:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=("step", "record", "mapped", "copied"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker_step() if chosen.worker == "step" else worker_memory(chosen.worker)
        return 0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts, rows = (student_costs, side_costs, class_costs, image_costs, recording_costs, process_costs), []
    with progress_bar(len(parts) + 1, "measuring", unit="part") as progress:
        for part in parts:
            rows += part()
            progress.update()
        held = memory()
        progress.update()
    print(f"{'grows':12}{'x':>8}  {'kind':12}{'µs an image':>14}{'model':>10}{'ratio':>8}")
    for row in rows:
        ratio = row["measured"] / row["model"]
        print(
            f"{row['grows']:12}{row['x']:8}  {row['kind']:12}{row['measured']:14.1f}{row['model']:10.1f}{ratio:8.2f}"
        )
    for row in held:
        sizes = f"{row['mb_of_its_own']:,.0f} MB of its own, of which torch took {row['torch_mb']:,.0f}"
        print(
            f"\n{row['recording']} recording of {row['recording_mb']:,.0f} MB: {sizes}; {row['step']:.1f} µs a step"
        )
    if chosen.json:
        machine = {"processor": speed.processor(), "cores": settings.cores(), "torch": torch.__version__}
        result = {"benchmark": "scaling", "rows": rows, "memory": held, **machine}
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
