"""Any image classifier as a teacher: a wrapper that gives it its own kind of input, and checks that it is one.

A network of torchvision, timm, transformers or your own expects images of some size, mean and spread, and answers
with its own classes in its own order. A mistake in any of them changes no shape, and spoils the soft targets.
"""

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _recorded, _validate
from distill_utils.data import ImageSet
from distill_utils.training import eval_mode, logits, progress_bar

IMAGENET = {"mean": (0.485, 0.456, 0.406), "sd": (0.229, 0.224, 0.225)}

# What networks are usually trained with, besides the mean and sd of their own images.
NORMALISATIONS: dict[str, dict] = {
    "none (images in [0, 1])": {"mean": 0.0, "sd": 1.0},
    "of ImageNet": IMAGENET,
    "by 0.5 and 0.5": {"mean": 0.5, "sd": 0.5},
    "of CLIP": {"mean": (0.4815, 0.4578, 0.4082), "sd": (0.2686, 0.2613, 0.2758)},
    "of CIFAR-10": {"mean": (0.4914, 0.4822, 0.4465), "sd": (0.247, 0.2435, 0.2616)},
    "of MNIST": {"mean": 0.1307, "sd": 0.3081},
    "none (images in [0, 255])": {"mean": 0.0, "sd": 1 / 255},
}
_SIDES = (32, 64, 128, 224)
_TRIED = 100  # images per trial


class NotATeacher(ValueError):
    """A network that would teach nonsense as it is wrapped. examination: what was found."""

    def __init__(self, message: str, examination: "Examination"):
        super().__init__(message)
        self.examination = examination


@dataclass(frozen=True)
class Examination:
    """What Teacher.examine has found; printed, it is a table. rows: the table, for plots.show_table; accuracy: in
    [0, 1]; order: the class that each column of the logits answers best, by name; problems: sentences."""

    rows: list[dict]
    accuracy: float
    order: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(row["check"]) for row in self.rows)
        lines = [f"{'check':{width}}  accuracy  found"]
        lines += [f"{row['check']:{width}}  {row['accuracy']:8.1%}  {row['found']}" for row in self.rows]
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


class Teacher(nn.Module):
    """A classifier that takes images as this package has them and answers with logits for your classes (lesson 10).

    network: any nn.Module that returns logits, also in a tuple or dict, in any precision; classes: your classes, in
    the order of the labels (data.classes); outputs: the names of the network's own classes in its order (default:
    yours); mapping: for each of your classes that the network calls otherwise, the name or number of its class, or
    several; side: pixels, to which images are resized (default: as they come); mean, sd: for each channel or one
    number, of the images in [0, 1] that the network was trained on (default: not normalised).

    forward: float N×channels×H×W in [0, 1] -> logits N×C. Grey images get three channels where the network has three.
    The network is always asked in eval mode and without gradient, and its own mode does not change.

    Where several of the network's classes are one of yours, the logit is the logsumexp of theirs: a softmax adds the
    probabilities of its classes, exp of that sum is what the logit of the union has to be. Classes that are none of
    yours are left out, which is the network's answer given that the image shows one of yours. Both are exact at
    temperature 1; a higher one softens between your classes, not within them.

    Raises ValueError for a class that no output or several outputs are named after.
    """

    def __init__(self, network: nn.Module, classes: Sequence[str], *, outputs: Sequence[str] | None = None,
                 mapping: Mapping[str, str | int | Sequence[str | int]] | None = None, side: int | None = None,
                 mean: float | Sequence[float] = 0.0, sd: float | Sequence[float] = 1.0):
        super().__init__()
        if side is not None:
            _validate.number("side", side, 1, whole=True)
        self.network, self.classes, self.side = network, tuple(classes), side
        self.outputs, mapping = tuple(classes if outputs is None else outputs), dict(mapping or {})
        if unknown := [name for name in mapping if name not in self.classes]:
            raise ValueError(f"mapping must have your classes as its keys, got {unknown[0]!r}, which is none of them")
        self.columns = [_columns(name, self.outputs, mapping) for name in self.classes]
        if len({c for columns in self.columns for c in columns}) < sum(map(len, self.columns)):
            raise ValueError("an output of the network is given to two of your classes: give each to one")
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("sd", torch.as_tensor(sd, dtype=torch.float32).view(-1, 1, 1))
        if len({len(self.mean), len(self.sd)} - {1}) > 1 or not bool((self.sd > 0).all()):
            raise ValueError(f"mean and sd must be one number or one per channel, sd above 0, got {mean} and {sd}")
        first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        self.channels = first.in_channels if first is not None else None  # any number of them

    def extra_repr(self) -> str:
        """Everything that shapes an answer and is no weight: it is part of the key of what is recorded."""
        return f"side={self.side}, columns={self.columns}, classes={self.classes}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"images must be a float tensor N×channels×H×W, got shape {tuple(images.shape)}")
        if self.side is not None and images.shape[2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if self.channels not in (None, images.shape[1]):
            raise ValueError(f"the network takes images of {self.channels} channels, got {images.shape[1]}")
        images = ((images - self.mean.to(images)) / self.sd.to(images)).contiguous(memory_format=torch.channels_last)
        with eval_mode(self.network):
            z = _recorded.answer(self.network, images)
        if z.ndim != 2 or z.shape[1] != len(self.outputs):
            raise ValueError(f"the network must return logits N×{len(self.outputs)}, one for each of its classes, "
                             f"got {tuple(z.shape)}: give the names of all its classes in outputs")
        if all(len(columns) == 1 for columns in self.columns):
            return z[:, [columns[0] for columns in self.columns]]
        return torch.stack([z[:, columns].logsumexp(1) for columns in self.columns], 1)

    def examine(self, image_set: ImageSet, *, student: nn.Module | None = None, quiet: bool = False) -> Examination:
        """Check the wrapped network on labelled images, before anything is recorded (lesson 10).

        image_set: labelled images, better not those that the network was trained on; a few hundred are enough;
        student: a network that was trained alone, which the teacher should beat. Tried are another order of the
        classes (the best for one half of the images, measured on the other half), usual normalisations and other
        sizes. Raises NotATeacher where one of them makes at least ten percent more of the answers right, or where the
        network is no better than always answering the most frequent class. Warns of a gain of three percent that is
        three standard errors from none, and of a teacher that is no better than the student.
        """
        image_set = image_set.subset(image_set.labels >= 0)
        if len(image_set) == 0:
            raise ValueError("a teacher is examined on labelled images: these have no labels")
        if int(image_set.labels.max()) >= len(self.classes):
            raise ValueError(f"label {int(image_set.labels.max())} is out of range for {len(self.classes)} classes")
        _validate.finite_images("images", image_set.images)
        place = torch.linspace(0, len(image_set) - 1, min(_TRIED, len(image_set))).long().unique()
        few = image_set.subset(place)
        changes = self._changes(few.images)
        with progress_bar(len(image_set) + len(changes) * len(few), "examining the teacher", unit="image",
                          quiet=quiet) as bar:
            outputs, labels = logits(self, image_set.images), image_set.labels
            bar.update(len(image_set))
            right = outputs.argmax(1) == labels
            order, before, after = _recorded.other_order(outputs, labels)
            names = tuple(self.classes[k] for k in order.argsort().tolist())
            trials = [_Trial("classes in another order", before, after, self._advice(names))]
            for check, change in changes.items():
                advice = "give " + ", ".join(f"{name}={value}" for name, value in change.items())
                trials.append(_Trial(check, right[place], self._but(**change)._right(few), advice))
                bar.update(len(few))
        rows = [{"check": "as it is wrapped", "accuracy": _mean(right), "found": ""}]
        rows += [{"check": t.check, "accuracy": _mean(t.after), "found": f"{t.gain:+.1%}" if t.gain else "not better"}
                 for t in trials]
        if self.side and self.side > few.images.shape[-1]:
            rows.append({"check": f"images enlarged from {few.images.shape[-1]} to {self.side} pixels",
                         "accuracy": _mean(right), "found": f"load them with side={self.side}, and it sees more"})
        best = max(trials, key=lambda trial: trial.gain)
        errors, doubts = [str(best)] if best.gain >= 0.1 else [], [str(best)] if 0 < best.gain < 0.1 else []
        accuracy, share = _mean(right), float(torch.bincount(labels).max()) / len(labels)
        rows.append({"check": "always the most frequent class", "accuracy": share, "found": ""})
        if accuracy <= share + 2 * math.sqrt(share * (1 - share) / len(labels)):
            errors.append(f"the teacher is no better than chance: {accuracy:.0%} of its answers are right, and "
                          f"{share:.0%} if it always answered the most frequent class: give outputs, side, mean and "
                          "sd as it was trained with, several may be wrong at once, or it was hardly trained")
        if student is not None:
            alone = _mean(logits(student, image_set.images).argmax(1) == labels)
            rows.append({"check": "the student alone", "accuracy": alone, "found": ""})
            if alone >= accuracy:
                doubts.append(f"the teacher is no better than the student alone: {accuracy:.0%} of its answers are "
                              f"right, and {alone:.0%} of the student's")
        found = Examination(rows, accuracy, names, (*errors, *doubts))
        if errors:
            raise NotATeacher(errors[0], found)
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=2)
        return found

    def _right(self, image_set: ImageSet) -> Tensor:
        """Which images are answered rightly, bool N; none where the network cannot take them."""
        try:
            return logits(self, image_set.images).argmax(1) == image_set.labels
        except (RuntimeError, ValueError, AssertionError):  # a vision transformer has one size
            return torch.zeros(len(image_set), dtype=torch.bool)

    def _changes(self, images: Tensor) -> dict[str, dict]:
        """Other ways to wrap the network: a description -> arguments of Teacher."""
        own = {"mean": images.mean((0, 2, 3)), "sd": images.std((0, 2, 3))}
        known = NORMALISATIONS | {"of these images": {k: [round(x, 4) for x in v.tolist()] for k, v in own.items()}}
        changes: dict[str, dict] = {}
        for name, change in known.items():
            numbers = [torch.as_tensor(change[k], dtype=torch.float32).view(-1, 1, 1) for k in ("mean", "sd")]
            if len(numbers[0]) not in (1, self.channels or images.shape[1]):
                continue
            apart = [(a - b.cpu()).abs().max() for a, b in zip(numbers, (self.mean, self.sd), strict=True)]
            if max(apart) > 0.01:
                changes[f"normalisation {name}"] = change
        now = self.side or images.shape[-1]
        sides = sorted({*_SIDES, images.shape[-1]} - {now})
        return changes | {f"images of {side} pixels": {"side": side} for side in sides}

    def _but(self, **changes) -> "Teacher":
        """The same network, wrapped otherwise."""
        given = {"mean": self.mean.flatten().tolist(), "sd": self.sd.flatten().tolist(), "side": self.side} | changes
        mapping = dict(zip(self.classes, self.columns, strict=True))
        return Teacher(self.network, self.classes, outputs=self.outputs, mapping=mapping, **given)

    def _advice(self, names: tuple[str, ...]) -> str:
        """How to get another order. names: the class that each column of the logits shows."""
        if sorted(self.outputs) == sorted(self.classes):
            outputs = list(self.outputs)
            for columns, name in zip(self.columns, names, strict=True):
                outputs[columns[0]] = name
            listed = ", ".join(map(repr, outputs[:20])) + (", …" if len(outputs) > 20 else "")
            return f"the best one found is outputs=[{listed}]"
        pairs = [f"{a!r} on images of {b!r}" for a, b in zip(self.classes, names, strict=True) if a != b]
        return f"correct outputs or mapping, it answers {', '.join(pairs[:3])}{', …' if len(pairs) > 3 else ''}"


class _Trial:
    """Another way to wrap a teacher. before, after: which answers are right, bool N; gain: of accuracy, 0 where it
    is less than three percent or than three standard errors."""

    def __init__(self, check: str, before: Tensor, after: Tensor, advice: str):
        self.check, self.before, self.after, self.advice = check, before, after, advice
        gain, changed = _mean(after) - _mean(before), int((before != after).sum())
        self.gain = gain if gain >= max(0.03, 3 * math.sqrt(changed) / max(1, len(before))) else 0.0

    def __str__(self) -> str:
        return (f"the teacher is wrapped wrongly: {_mean(self.before):.0%} of its answers to {len(self.before)} "
                f"images are right, and {_mean(self.after):.0%} with {self.check} ({self.advice})")


def _mean(right: Tensor) -> float:
    return float(right.double().mean()) if len(right) else 0.0


def _columns(name: str, outputs: tuple[str, ...], mapping: Mapping) -> list[int]:
    """The network's outputs that are the class of this name."""
    given = mapping.get(name, name)
    found = []
    for wanted in [given] if isinstance(given, str | int) else given:
        if isinstance(wanted, int):
            _validate.number(f"the output that mapping gives {name!r}", wanted, 0, len(outputs) - 1, whole=True)
            found.append(wanted)
            continue
        places = [place for place, output in enumerate(outputs) if output == wanted]
        if len(places) > 1:
            raise ValueError(f"{len(places)} outputs of the network are named {wanted!r}: give mapping the number of "
                             f"one, such as {{{name!r}: {places[0]}}}")
        if not places:
            close = difflib.get_close_matches(wanted, outputs, 3, 0.5)
            such = f", such as {{{name!r}: {close}}}" if close else ""
            raise ValueError(f"no output of the network is named {wanted!r}: give mapping the names of those that "
                             f"show {name!r}{such}")
        found += places
    if not found:
        raise ValueError(f"mapping must give {name!r} at least one output of the network")
    return sorted(set(found))
