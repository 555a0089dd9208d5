"""Images per CPU-second of one distillation step: ours beside the loops that people copy, in one run, on one thread.

    python benchmarks/kd_step.py [--rounds 7] [--steps 40]

Every system gets the same pair of networks (the series' teacher and student), the same 3,000 images in memory, the
same batch size and optimiser, and the same loss (T = 4, soft targets 0.9, labels 0.1): the loss of a first batch is
compared before anything is timed. Systems take turns in a new order each round; a round's ratio is taken within it.
Rows without another word compute as speed.choose finds fastest on this processor (bfloat16 or float32, memory order),
ours and others' alike; rows that end in _plain, and the loops of others, are also measured in plain float32.

    student_alone_plain   a plain loop in float32: cross-entropy, the student alone
    student_alone         training.fit, the student alone: the limit
    cached                training.fit with recorded teacher logits
    cached_plain          the same in float32, channels_last, as lessons train
    cached_compiled       cached, and the student's steps are compiled
    online                training.fit, the teacher computed at every step
    online_plain          a plain loop in float32 that computes the teacher at every step, images as tensors
    tutorial_loop         the manner of the PyTorch tutorial: DataLoader, transforms of single images, online teacher
    tutorial_chosen       the same, computed as is fastest here
    cached_augmented      cached, on augmented views: whole batches are augmented, four views are recorded
    tutorial_augmented    the tutorial's loop with the same augmentation as transforms of single images
    torchdistill          torchdistill's distillation box, its teacher put in eval mode (see requirements.txt here)
    torchdistill_chosen   the same, computed as is fastest here

Then a teacher of real size: resnet18, recorded against online. The result goes to one file for
each processor, results/benchmark-kd_step-PROCESSOR.json, from which `make tables` writes docs/results.md.
"""

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import random
import re
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "build" / "peers")]

from distill_utils import augment, data, losses, models, recipes, speed, training  # noqa: E402
from distill_utils.data import ImageSet  # noqa: E402
from distill_utils.training import Schedule, progress_bar  # noqa: E402

BATCH, TEMPERATURE, ALPHA, LR = 128, 4.0, 0.9, 1e-3
ASKED = {  # what is asked of the ratios, each within a round
    ("cached", "student_alone"): 0.97,
    ("student_alone", "student_alone_plain"): 1.3,
    ("cached", "online_plain"): 3.3,  # 3.7 where there are units for bfloat16
    ("cached", "tutorial_loop"): 4.5,
    ("cached", "torchdistill"): 3.5,
    ("cached", "online"): None,
    ("cached", "cached_plain"): None,
    ("cached_compiled", "cached"): None,
    ("cached", "tutorial_chosen"): None,
    ("cached", "torchdistill_chosen"): None,
    ("cached_augmented", "tutorial_augmented"): None,
    ("cached_plain", "torchdistill"): None,  # like for like: what recording alone brings
    ("online_plain", "tutorial_loop"): None,
}


def hard(model, batch):
    return F.cross_entropy(model(batch.images), batch.labels), {}


def soft(model, batch):
    return losses.distillation_loss(model(batch.images), batch.teacher_logits, batch.labels, TEMPERATURE, ALPHA), {}


class Ours:
    """training.fit, as the series uses it."""

    def __init__(self, student, images: ImageSet, loss, *, teacher=None, bf16="auto", views=0, compiled=False):
        self.student, self.images, self.loss, self.teacher = student, images, loss, teacher
        self.bf16, self.views = bf16, views
        if compiled:
            student.compile()

    def run(self, steps: int) -> float:
        batch = min(BATCH, len(self.images))
        schedule = Schedule(steps=steps, batch_size=batch, lr=LR, bf16=self.bf16, views=self.views)
        history = training.fit(
            self.student,
            self.images,
            self.loss,
            schedule,
            teacher=self.teacher,
            augmentation=augment.GLYPHS,
            quiet=True,
        )
        return history["loss"][0]


class AsChosen(torch.nn.Module):
    """Another's network, computed in the number format and memory order that are fastest here."""

    def __init__(self, network, choice: speed.Choice):
        super().__init__()
        self.order, self.bf16 = speed.memory_order(choice.channels_last), choice.bf16
        self.network = network.to(memory_format=self.order)

    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.network(images.contiguous(memory_format=self.order)).float()


class PlainLoop:
    """Tensors in memory, the teacher asked at every step, nothing tuned."""

    def __init__(self, student, images: ImageSet, *, teacher=None):
        self.student, self.images, self.teacher = student, images, teacher
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=LR)

    def run(self, steps: int) -> float:
        self.student.train()
        first, count = None, len(self.images)
        for step in range(steps):
            if step % (count // BATCH) == 0:
                order = torch.randperm(count)
            index = order[step % (count // BATCH) * BATCH :][:BATCH]
            images, labels = self.images.images[index], self.images.labels[index]
            outputs = self.student(images)
            loss = F.cross_entropy(outputs, labels)
            if self.teacher is not None:
                with torch.no_grad():
                    answers = self.teacher(images)
                loss = (1 - ALPHA) * loss + ALPHA * _soft_targets(outputs, answers)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            first = loss.item() if first is None else first
        return first


def _soft_targets(outputs, answers):
    targets = F.softmax(answers / TEMPERATURE, dim=-1)
    log_probabilities = F.log_softmax(outputs / TEMPERATURE, dim=-1)
    return torch.sum(targets * (targets.log() - log_probabilities)) / len(outputs) * TEMPERATURE**2


class Pictures(Dataset):
    """Single pictures with transforms, as torchvision's datasets give them."""

    def __init__(self, images: ImageSet, augmented: bool):
        pixels = (images.images[:, 0] * 255).round().to(torch.uint8).numpy()
        self.pictures, self.labels = [Image.fromarray(picture) for picture in pixels], images.labels.tolist()
        change = augment.GLYPHS
        vary = [
            transforms.RandomAffine(math.degrees(change.rotation), translate=(change.shift / 28, change.shift / 28)),
            transforms.ColorJitter(contrast=change.contrast), transforms.RandomInvert(),
        ]  # fmt: skip
        tensor = [transforms.ToTensor(), transforms.Normalize((0.0,), (1.0,))]
        self.transform = transforms.Compose([*(vary if augmented else []), *tensor])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(self.pictures[i]), self.labels[i]


class TutorialLoop:
    """The loop of PyTorch's knowledge distillation tutorial, with the loss of this benchmark."""

    def __init__(self, student, images: ImageSet, *, teacher, augmented=False):
        self.student, self.teacher = student, teacher
        self.loader = DataLoader(
            Pictures(images, augmented), batch_size=BATCH, shuffle=True, num_workers=0, drop_last=True
        )
        self.cross_entropy = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=LR)

    def run(self, steps: int) -> float:
        self.teacher.eval()
        self.student.train()
        first, done = None, 0
        while done < steps:
            for inputs, labels in self.loader:
                self.optimizer.zero_grad()
                with torch.no_grad():
                    teacher_logits = self.teacher(inputs)
                student_logits = self.student(inputs)
                label_loss = self.cross_entropy(student_logits, labels)
                loss = ALPHA * _soft_targets(student_logits, teacher_logits) + (1 - ALPHA) * label_loss
                loss.backward()
                self.optimizer.step()
                first = loss.item() if first is None else first
                done += 1
                if done == steps:
                    break
        return first


class Torchdistill:
    """torchdistill's box on a TensorDataset in memory; its teacher is put in eval mode, which it omits."""

    def __init__(self, student, images: ImageSet, *, teacher):
        logging.disable(logging.INFO)
        from torch.utils.data import RandomSampler
        from torchdistill.core.distillation import get_distillation_box

        criterion = {
            "key": "KDLoss",
            "kwargs": {
                "student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
                "teacher_module_io": "output", "temperature": TEMPERATURE, "alpha": 1 - ALPHA,
                "reduction": "batchmean",
            },
        }  # fmt: skip
        config = {
            "num_epochs": 1, "val_data_loader": {},
            "train_data_loader": {
                "dataset_id": "images", "cache_output": None,
                "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": True},
                "sampler": {"class_or_func": RandomSampler, "kwargs": None},
            },
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False, "wrapper": None},
            "student": {"forward_proc": "forward_batch_only", "requires_grad": True, "wrapper": None},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": LR}},
            "criterion": {"key": "WeightedSumLoss",
                          "kwargs": {"sub_terms": {"kd": {"weight": 1.0, "criterion": criterion}}}},
        }  # fmt: skip
        images = TensorDataset(images.images, images.labels)
        self.box = get_distillation_box(
            teacher, student, {"images": images}, config, torch.device("cpu"), None, False, 1
        )
        self.teacher, self.student = teacher, student

    def run(self, steps: int) -> float:
        first, done = None, 0
        while done < steps:
            self.box.pre_epoch_process(epoch=0)
            self.teacher.eval()
            self.student.train()
            for inputs, labels, extra in self.box.train_data_loader:
                loss = self.box.forward_process(inputs, labels, extra)
                self.box.post_forward_process(loss=loss)
                first = loss.item() if first is None else first
                done += 1
                if done == steps:
                    break
        return first


def systems(teacher, student, images: ImageSet) -> dict:
    """Every system with copies of its own of the two networks."""
    choice = speed.choose(student, images.images[:BATCH])

    def ours(loss=soft, **options):
        return Ours(copy.deepcopy(student), images, loss, **options)

    def pair(*, chosen=False):
        both = [copy.deepcopy(network).to(memory_format=torch.contiguous_format) for network in (student, teacher)]
        both = [AsChosen(network, choice) for network in both] if chosen else both
        return {"student": both[0], "images": images, "teacher": both[1]}

    recorded = recipes.record(teacher, images.images, quiet=True)
    views = recipes.record(teacher, images.images, views=4, augmentation=augment.GLYPHS, quiet=True)
    made = {
        "student_alone_plain": PlainLoop(**{**pair(), "teacher": None}),
        "student_alone": ours(hard),
        "cached": ours(teacher=recorded),
        "cached_plain": ours(teacher=recorded, bf16=False),
        "cached_compiled": ours(teacher=recorded, compiled=True),
        "online": ours(teacher=copy.deepcopy(teacher)),
        "online_plain": PlainLoop(**pair()),
        "tutorial_loop": TutorialLoop(**pair()),
        "tutorial_chosen": TutorialLoop(**pair(chosen=True)),
        "cached_augmented": ours(teacher=views, views=4),
        "tutorial_augmented": TutorialLoop(**pair(), augmented=True),
    }
    try:
        made["torchdistill"] = Torchdistill(**pair())
        made["torchdistill_chosen"] = Torchdistill(**pair(chosen=True))
    except ImportError as error:
        print(f"torchdistill is left out ({error}): see benchmarks/requirements.txt", file=sys.stderr)
    return made


def real_sizes(rounds: int = 3) -> list[dict]:
    """Recorded against online, in turns: images of 32 pixels, and a resnet18 that sees them at 32 or 224 pixels."""
    from torchvision.models import mobilenet_v3_small, resnet18

    rows = []
    for side, count, steps in ((32, BATCH, 4), (224, 32, 1)):
        enlarge = torch.nn.Upsample(size=side, mode="bilinear")
        teacher = torch.nn.Sequential(enlarge, resnet18(num_classes=10)).eval().requires_grad_(False)
        images = ImageSet(torch.rand(count, 3, 32, 32), torch.arange(count) % 10)
        recorded = recipes.record(teacher, images.images, quiet=True)
        students = {
            "student": models.build("student", 10, 3),
            "mobilenet_v3_small": mobilenet_v3_small(num_classes=10),
        }
        for name, student in students.items():
            found = {kind: [] for kind in ("cached", "online")}
            for round_ in range(rounds + 1):
                for kind, answers in (("cached", recorded), ("online", teacher)):
                    system = Ours(copy.deepcopy(student), images, soft, teacher=answers)
                    rate = steps * count / cpu_seconds(lambda system=system, steps=steps: system.run(steps))
                    if round_ > 0:
                        found[kind].append(rate)
            ratios = [a / b for a, b in zip(found["cached"], found["online"], strict=True)]
            rows.append({"teacher": f"resnet18 at {side} pixels", "batch": count, "student": name,
                         **{kind: statistics.median(values) for kind, values in found.items()},
                         "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)})  # fmt: skip
    return rows


def share_of_peak(images_per_second: float, student) -> dict:
    """Operations per second: of the largest convolution and matrix product measured here, and of a training step."""
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1)
    big, square = torch.rand(64, 64, 28, 28), torch.rand(1024, 1024)
    with torch.no_grad():
        peak = {
            "convolution": 2
            * 64
            * 28
            * 28
            * 64
            * 64
            * 9
            / min(cpu_seconds(lambda: convolution(big)) for _ in range(5)),
            "matrix product": 2 * 1024**3 / min(cpu_seconds(lambda: square @ square) for _ in range(5)),
        }
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(student).eval()(torch.rand(1, 1, 28, 28))
    step = 3 * counter.get_total_flops() * images_per_second
    return {"peak": peak, "step": step, "share": step / max(peak.values())}


PARTS = {  # of a step, by the names of torch's operations
    "convolutions": r"conv|mkldnn", "BatchNorm": r"batch_norm", "optimiser": r"adam|foreach|lerp|addcdiv|sqrt",
    "ReLU, pooling, head": r"relu|threshold|pool|linear|addmm|mm$|mean",
    "copies, number format": r"copy|to$|contiguous",
}  # fmt: skip


def profile(system, steps: int = 20) -> dict[str, float]:
    """Which share of the processor's time in torch's operations each part of a system's step takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        system.run(steps)
    times = {event.key: event.self_cpu_time_total for event in found.key_averages() if event.key.startswith("aten::")}
    shares = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for name, taken in times.items():
        part = next((part for part, words in PARTS.items() if re.search(words, name)), "the rest")
        shares[part] += taken / sum(times.values())
    return shares


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(rounds: int, steps: int) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    glyphs = data.load("glyphs")
    images = ImageSet((glyphs.train.images * 255).round() / 255, glyphs.train.labels)  # what 8-bit pictures can hold
    teacher = models.build("teacher", len(glyphs.classes))
    training.reestimate_batch_norm(teacher, images.images)  # as a trained one, it has statistics
    teacher.eval().requires_grad_(False)
    student = models.build("student", len(glyphs.classes))

    first = {name: system.run(1) for name, system in systems(teacher, student, images.subset(range(BATCH))).items()}
    timed = systems(teacher, student, images)
    rates = {name: [] for name in timed}
    order = random.Random(0)
    with progress_bar((rounds + 1) * len(timed), "timing", unit="run") as progress:
        for round_ in range(rounds + 1):
            for name in order.sample(list(timed), len(timed)):
                seconds = cpu_seconds(lambda name=name: timed[name].run(steps))
                if round_ > 0:  # the first one compiles and fills caches
                    rates[name].append(steps * BATCH / seconds)
                progress.update()
    alone = statistics.median(rates["student_alone"])
    return {"first_batch_loss": first, "rates": rates, "choice": str(speed.choose(student, images.images[:BATCH])),
            "peak": share_of_peak(alone, student), "profile": profile(timed["cached"]),
            "real_sizes": real_sizes()}  # fmt: skip


def summary(measured: dict, rounds: int, steps: int) -> dict:
    rates = measured["rates"]
    ratios = []
    for (ours, other), asked in ASKED.items():
        if other in rates:
            values = [a / b for a, b in zip(rates[ours], rates[other], strict=True)]
            ratios.append({"of": ours, "to": other, "median": statistics.median(values), "low": min(values),
                           "high": max(values), "asked": asked})  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    if "torchdistill" in rates:
        versions["torchdistill"] = importlib.metadata.version("torchdistill")
    return {
        "benchmark": "kd_step",
        "settings": {"batch": BATCH, "steps": steps, "rounds": rounds, "threads": 1, "temperature": TEMPERATURE,
                     "alpha": ALPHA},
        "versions": {"python": platform.python_version(), **versions},
        "processor": speed.processor(),
        "chosen": measured["choice"],
        "first_batch_loss": measured["first_batch_loss"],
        "images_per_cpu_second": {name: statistics.median(values) for name, values in rates.items()},
        "range": {name: [min(values), max(values)] for name, values in rates.items()},
        "ratios": ratios,
        "operations_per_second": measured["peak"],
        "profile": measured["profile"],
        "real_sizes": measured["real_sizes"],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="of each system in each round")
    chosen = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):  # torchdistill prints
        result = summary(measure(chosen.rounds, chosen.steps), chosen.rounds, chosen.steps)
    apart = ("alone", "augmented")  # another loss, other images
    distilled = {
        name: loss for name, loss in result["first_batch_loss"].items() if not any(word in name for word in apart)
    }
    float32 = ("cached_plain", "online_plain", "tutorial_loop", "torchdistill")
    exact = {name: loss for name, loss in distilled.items() if name in float32}
    print(f"loss on the first batch: {min(exact.values()):.6f} to {max(exact.values()):.6f} in float32, "
          f"{min(distilled.values()):.4f} to {max(distilled.values()):.4f} as chosen here")  # fmt: skip
    print(f"chosen: {result['chosen']}\n")
    if max(exact.values()) - min(exact.values()) > 1e-3 or max(distilled.values()) - min(distilled.values()) > 0.05:
        print(f"error: the systems do not compute the same loss: {distilled}", file=sys.stderr)
        return 1
    print(f"{'system':22}{'images per CPU-second':>24}{'range':>20}")
    for name, median in result["images_per_cpu_second"].items():
        low, high = result["range"][name]
        print(f"{name:22}{median:24,.0f}{f'{low:,.0f} to {high:,.0f}':>20}")
    print(f"\n{'ratio':36}{'median':>8}{'range':>16}{'asked':>8}")
    for row in result["ratios"]:
        span = f"{row['low']:.2f} to {row['high']:.2f}"
        asked = f"{row['asked']:g}" if row["asked"] else "-"
        print(f"{row['of'] + ' / ' + row['to']:36}{row['median']:8.2f}{span:>16}{asked:>8}")
    print(f"\n{'resnet18 recorded / online':36}{'median':>8}{'range':>16}")
    for row in result["real_sizes"]:
        span = f"{row['low']:.1f} to {row['high']:.1f}"
        print(f"{row['teacher'] + ', ' + row['student']:36}{row['ratio']:8.1f}{span:>16}")
    slug = re.sub(r"[^a-z0-9_]+", "-", result["processor"].lower()).strip("-")
    path = ROOT / "results" / f"benchmark-kd_step-{slug}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {path}: make tables shows it in docs/results.md")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
