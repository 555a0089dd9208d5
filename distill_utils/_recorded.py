"""A teacher's recorded logits, and what training.fit checks of a teacher before it trains on it."""

import hashlib
import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from distill_utils import _store
from distill_utils.augment import Augmentation


class Recorded(list[Tensor]):
    """A teacher's logits on every view of a set of images, one tensor N×C per view, as recipes.record returns them.

    A list that also carries what it was recorded on, so that training.fit can refuse other images, another order or
    other views: images (see fingerprint), views and augmentation as record was given them, and the names of the
    classes in the order of the columns, where the teacher or the caller gave them. What is made out of it (a sum, a
    slice) is a plain list, of which only the shapes are checked.
    """

    def __init__(self, tables: list[Tensor], *, images: str, views: int, augmentation: Augmentation | None,
                 classes: tuple[str, ...] | None = None):
        super().__init__(tables)
        self.images, self.views, self.augmentation, self.classes = images, views, augmentation, classes


def fingerprint(images: Tensor) -> str:
    """What identifies images in this order: SHA-256 of type, shape and pixels, or of the digests of photographs."""
    contents = getattr(images, "contents", None)
    return _store.checksum({"images": images}) if contents is None else hashlib.sha256(contents).hexdigest()


def check(teacher: list[Tensor] | Tensor, images: Tensor, labels: Tensor, views: int,
          augmentation: Augmentation) -> None:
    """Raise ValueError, naming what differs, unless recorded logits belong to these images, views and classes."""
    if isinstance(teacher, Recorded):
        _check_origin(teacher, images, views, augmentation)
    if len(teacher) < max(views, 1):
        raise ValueError(f"the teacher was recorded on {len(teacher)} views, but the schedule has {max(views, 1)}: "
                         "record as many")
    for view in teacher:
        if not isinstance(view, Tensor) or view.ndim < 2 or len(view) != len(images):
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(f"recorded logits must be one tensor N×C per view, N = {len(images)}, got {got}")
    if teacher[0].ndim > 2:  # one row of logits per word of a sentence: it has no classes of images
        return
    if len(labels) and int(labels.max()) >= teacher[0].shape[1]:
        raise ValueError(f"the teacher has {teacher[0].shape[1]} classes, but there is a label {int(labels.max())}")
    check_order(teacher[0], labels.to(teacher[0].device), getattr(teacher, "classes", None))


def _check_origin(teacher: Recorded, images: Tensor, views: int, augmentation: Augmentation) -> None:
    if teacher and len(teacher[0]) != len(images):
        raise ValueError(f"the teacher was recorded on {len(teacher[0])} images, but there are {len(images)} to "
                         "train on: record it on them")
    if teacher.images != fingerprint(images):
        raise ValueError("the teacher was recorded on other images, or in another order: record it on the images "
                         "that fit is given")
    if bool(views) != bool(teacher.views):
        kinds = ("unaugmented images", "augmented views")
        raise ValueError(f"the teacher was recorded on {kinds[bool(teacher.views)]}, but the schedule trains on "
                         f"{kinds[bool(views)]}: give record and Schedule the same views")
    if views and teacher.augmentation != augmentation:
        raise ValueError(f"the teacher was recorded with {teacher.augmentation}, but fit was given {augmentation}: "
                         "use one for both")


def check_classes(found: Sequence[str] | None, wanted: Sequence[str] | None) -> None:
    """Raise ValueError, naming what differs, unless a network has the classes of the images, in their order."""
    if not found or not wanted or tuple(found) == tuple(wanted):
        return
    if sorted(found) == sorted(wanted):
        place = next(k for k, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise ValueError(f"the network has its classes in another order than the images: class {place} is "
                         f"{found[place]!r} there and {wanted[place]!r} here; teachers.Teacher maps them by name")
    differences = [f"{text} {', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''}"
                   for text, names in (("it lacks", sorted(set(wanted) - set(found))),
                                       ("it also has", sorted(set(found) - set(wanted)))) if names]
    raise ValueError(f"the network has other classes than the images: {' and '.join(differences)}")


def check_order(outputs: Tensor, labels: Tensor, classes: tuple[str, ...] | None = None) -> None:
    """Raise ValueError where a teacher answers well, but with its classes in another order than the labels: in the
    order that is best for one half of the images, ten percent more of the other half's answers would be right.

    outputs: N×C; labels: N, -1 where unlabelled. Only images whose answer is a class that occurs among the labels
    count, so that a teacher that was made for some of the classes is not suspected.
    """
    known = labels >= 0
    if known.any():
        predicted, present = outputs.argmax(1), torch.bincount(labels[known], minlength=outputs.shape[1]) > 0
        known &= present[predicted]
    if int(known.sum()) < max(50, 3 * outputs.shape[1]):  # too few to tell a permutation from chance
        return
    order, before, after = other_order(outputs[known], labels[known])
    accuracy, best = float(before.float().mean()), float(after.float().mean())
    if best < 0.6 or best - accuracy < max(0.1, 3 * math.sqrt(int((before != after).sum())) / len(after)):
        return
    names = [repr(name) for name in classes] if classes else [str(k) for k in range(len(order))]
    moved = [(names[i], names[k]) for k, i in enumerate(order.tolist()) if i != k and present[k]]
    pairs = [f"{answer} where the label is {label}" for answer, label in moved]
    raise ValueError(f"the teacher's classes are in another order than the labels: {100 * accuracy:.0f} % of its "
                     f"answers are right, and would be {100 * best:.0f} % in the right order (it answers "
                     f"{', '.join(pairs[:3])}{', …' if len(pairs) > 3 else ''})")


def confusion_counts(outputs: Tensor, labels: Tensor) -> Tensor:
    """How often an image of class i is predicted as class j: LongTensor C×C."""
    count = outputs.shape[1]
    return torch.bincount(labels * count + outputs.argmax(1), minlength=count**2).view(count, count)


def other_order(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each class the column that answers it best, LongTensor C; and, for a random half of the images, which
    answers are right as they are, and which in the order that is best for the other half. outputs: N×C; labels: N."""
    chosen, judged = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).chunk(2)
    order = _best_order(outputs[chosen], labels[chosen]).to(labels.device)
    answers, labels_judged = outputs[judged].argmax(1), labels[judged]
    return _best_order(outputs, labels), answers == labels_judged, answers == order[labels_judged]


def _best_order(outputs: Tensor, labels: Tensor) -> Tensor:
    """For each class the column that answers it, LongTensor C, so that accuracy is highest (the Hungarian method)."""
    return torch.from_numpy(linear_sum_assignment(confusion_counts(outputs, labels).cpu().numpy(), maximize=True)[1])


# Asking a network


def answer(network: nn.Module, images: Tensor) -> Tensor:
    """The network's logits for a batch: float32 for a network in half precision, and taken out of a tuple or dict."""
    half = next((p.dtype for p in network.parameters() if p.dtype in (torch.float16, torch.bfloat16)), None)
    outputs = logits_of(network(images if half is None else images.to(half)))
    return outputs if half is None else outputs.float()


def logits_of(outputs) -> Tensor:
    """The logits in what a network returns: a tensor, or the "logits" of a dict or an object, or the first tensor of
    a tuple. Raises ValueError, in one sentence, for anything else."""
    found = outputs.get("logits") if isinstance(outputs, dict) else getattr(outputs, "logits", outputs)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        names = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, dict) else ""
        raise ValueError(f"a network must return logits N×C, as a tensor, under the name logits or first in a tuple, "
                         f"got {type(outputs).__name__}{names}: wrap it in a module that does")
    return found
