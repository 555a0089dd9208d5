"""Images per CPU-second of one distillation step: ours beside the loops that people copy, in one run, on one thread.

    python benchmarks/kd_step.py [--rounds 7] [--steps 40] [--json results/benchmark-kd_step.json]

Every system gets the same pair of networks (the series' teacher and student), the same 3,000 images in memory, the
same batch size and optimiser, and the same loss (T = 4, soft targets 0.9, labels 0.1): the loss of a first batch is
compared before anything is timed. Systems take turns in a new order each round; a round's ratio is taken within it.

    student_alone_plain   a plain loop: cross-entropy, the student alone
    student_alone         ours: training.fit, channels_last, compiled, bfloat16: the limit
    cached                ours, the same, with recorded teacher logits
    cached_plain          ours with neither compilation nor bfloat16
    online                ours, the same as cached, but the teacher is asked at every step
    online_plain          a plain loop that asks the teacher at every step, images as tensors
    tutorial_loop         the manner of the PyTorch tutorial: DataLoader, transforms of single images, online teacher
    cached_augmented      ours, cached, on augmented views: whole batches are augmented, four views are recorded
    tutorial_augmented    the tutorial's loop with the same augmentation as transforms of single images
    torchdistill          torchdistill's distillation box, its teacher put in eval mode (see requirements.txt here)
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
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "build" / "peers")]

from distill_utils import augment, data, losses, models, recipes, training  # noqa: E402
from distill_utils.data import ImageSet  # noqa: E402
from distill_utils.training import Schedule, progress_bar  # noqa: E402

BATCH, TEMPERATURE, ALPHA, LR = 128, 4.0, 0.9, 1e-3
ASKED = {  # what is asked of the ratios, each within a round
    ("cached", "student_alone"): 0.97,
    ("cached", "online_plain"): 5.0,
    ("cached", "torchdistill"): 4.0,
    ("cached", "tutorial_loop"): 10.0,
    ("student_alone", "student_alone_plain"): 1.5,
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

    def __init__(self, student, images: ImageSet, loss, *, teacher=None, fast=True, views=0):
        self.student, self.images, self.loss, self.teacher = student, images, loss, teacher
        self.fast, self.views = fast, views
        if fast:
            student.compile()
            if isinstance(teacher, torch.nn.Module):
                teacher.compile()

    def run(self, steps: int) -> float:
        schedule = Schedule(steps=steps, batch_size=BATCH, lr=LR, bf16=self.fast, views=self.views)
        history = training.fit(self.student, self.images, self.loss, schedule, teacher=self.teacher,
                               augmentation=augment.GLYPHS, quiet=True)  # fmt: skip
        return history["loss"][0]


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

    def pair():
        return copy.deepcopy(student), copy.deepcopy(teacher)

    recorded = recipes.record(teacher, images.images, quiet=True)
    views = recipes.record(teacher, images.images, views=4, augmentation=augment.GLYPHS, quiet=True)
    plain, plain_teacher = (network.to(memory_format=torch.contiguous_format) for network in pair())
    made = {
        "student_alone_plain": PlainLoop(copy.deepcopy(plain), images),
        "student_alone": Ours(pair()[0], images, hard),
        "cached": Ours(pair()[0], images, soft, teacher=recorded),
        "cached_plain": Ours(pair()[0], images, soft, teacher=recorded, fast=False),
        "online": Ours(pair()[0], images, soft, teacher=pair()[1]),
        "online_plain": PlainLoop(copy.deepcopy(plain), images, teacher=copy.deepcopy(plain_teacher)),
        "tutorial_loop": TutorialLoop(copy.deepcopy(plain), images, teacher=copy.deepcopy(plain_teacher)),
        "cached_augmented": Ours(pair()[0], images, soft, teacher=views, views=4),
        "tutorial_augmented": TutorialLoop(
            copy.deepcopy(plain), images, teacher=copy.deepcopy(plain_teacher), augmented=True
        ),
    }
    try:
        made["torchdistill"] = Torchdistill(copy.deepcopy(plain), images, teacher=copy.deepcopy(plain_teacher))
    except ImportError as error:
        print(f"torchdistill is left out ({error}): see benchmarks/requirements.txt", file=sys.stderr)
    return made


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
    speed = {name: [] for name in timed}
    order = random.Random(0)
    with progress_bar((rounds + 1) * len(timed), "timing", unit="run") as progress:
        for round_ in range(rounds + 1):
            for name in order.sample(list(timed), len(timed)):
                start = time.process_time()
                timed[name].run(steps)
                seconds = time.process_time() - start
                if round_ > 0:  # the first one compiles and fills caches
                    speed[name].append(steps * BATCH / seconds)
                progress.update()
    return {"first_batch_loss": first, "speed": speed}


def summary(measured: dict, rounds: int, steps: int) -> dict:
    speed = measured["speed"]
    ratios = []
    for (ours, other), asked in ASKED.items():
        if other in speed:
            values = [a / b for a, b in zip(speed[ours], speed[other], strict=True)]
            ratios.append({"of": ours, "to": other, "median": statistics.median(values), "low": min(values),
                           "high": max(values), "asked": asked})  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    if "torchdistill" in speed:
        versions["torchdistill"] = importlib.metadata.version("torchdistill")
    return {
        "benchmark": "kd_step",
        "settings": {"batch": BATCH, "steps": steps, "rounds": rounds, "threads": 1, "temperature": TEMPERATURE,
                     "alpha": ALPHA},
        "versions": {"python": platform.python_version(), **versions},
        "processor": processor(),
        "first_batch_loss": measured["first_batch_loss"],
        "images_per_cpu_second": {name: statistics.median(values) for name, values in speed.items()},
        "range": {name: [min(values), max(values)] for name, values in speed.items()},
        "ratios": ratios,
    }  # fmt: skip


def processor() -> str:
    """The processor's name and what it computes bfloat16 with, where the system tells."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
        flags = [flag for flag in facts.get("flags", "").split() if flag in ("avx512_bf16", "amx_bf16", "avx2")]
        return f"{facts.get('model name', platform.machine())} ({', '.join(sorted(flags))})"
    return platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="of each system in each round")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):  # torchdistill prints
        result = summary(measure(chosen.rounds, chosen.steps), chosen.rounds, chosen.steps)
    apart = ("alone", "augmented")  # another loss, other images
    distilled = {
        name: loss for name, loss in result["first_batch_loss"].items() if not any(word in name for word in apart)
    }
    exact = {name: loss for name, loss in distilled.items() if name not in ("cached", "online")}  # these use bfloat16
    print(f"loss on the first batch: {min(exact.values()):.6f} to {max(exact.values()):.6f} in float32, "
          f"{min(distilled.values()):.4f} to {max(distilled.values()):.4f} with bfloat16\n")  # fmt: skip
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
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwrote {chosen.json}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
