"""The teacher's outputs, recorded once: logits per augmented view and image, in half precision.

The student looks them up by (view, position in the set), never by batch number, so shuffling cannot misalign them.
Logits are kept rather than probabilities: the temperature can still be chosen. Each view is an artifact of its own,
keyed by the teacher's weights, the images and the augmentation: a killed recording goes on where it was, and a cache
of another teacher is simply another file.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from distill_utils import arguments, progress, store
from distill_utils.augment import NONE, Augmentation, augment
from distill_utils.training import logits


def record(teacher: nn.Module, images: Tensor, *, views: int = 0, augmentation: Augmentation = NONE,
           quiet: bool = False) -> list[Tensor]:  # fmt: skip
    """The teacher's logits on every view of the images, recorded or loaded.

    views: how many augmented views; 0: the images as they are. Returns one float16 tensor N×C per view, which fit
    takes as its teacher. The error of half precision is at most 2⁻⁷ for logits below 32 in size. Raises ValueError
    for logits that half precision cannot hold, above 65504 or not finite.
    """
    arguments.tensors(images=(images, "float N×channels×H×W"))
    arguments.number("views", views, 0, whole=True)
    key = {
        "teacher": store.checksum(teacher.state_dict()),
        "architecture": repr(teacher),
        "images": store.checksum({"images": images}),
        "code": store.code_version("models", "augment", "counter"),
    }
    everyone = torch.arange(len(images))
    recorded = []
    with progress.bar(max(views, 1), "recording the teacher", unit="view", quiet=quiet) as bar:
        for view in range(max(views, 1)):

            def make(partial, view=view):
                seen = augment(images, everyone, view, augmentation) if views else images
                halved = logits(teacher, seen).half()
                if not bool(halved.isfinite().all()):
                    raise ValueError("the teacher's logits are not finite in half precision: it cannot be recorded")
                return {"logits": halved}, {}

            view_key = key | {"view": view, "augmentation": asdict(augmentation)} if views else key
            tensors, _ = store.load_or_make("logits", view_key, make)
            recorded.append(tensors["logits"])
            bar.update()
    return recorded
