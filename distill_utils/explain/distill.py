"""Distilling reasons with answers: the student's map is pulled towards the teacher's while it is trained.

e²KD (Parchami-Araghi et al. 2024) matches Grad-CAM, attention transfer (Zagoruyko and Komodakis 2017) matches what a
layer looks at for any class. The teacher's flaws are matched as well as its virtues. A student trained on one
explainer must be judged by others: these maps agree because they were trained to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import explain, losses
from distill_utils.training import eval_mode


def explanation_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """1 - cosine of two sets of maps N×h×w, mean over images, in [0, 2].

    The maps keep their sign: after the ReLU that e²KD puts in its Grad-CAM, a student whose map is zero everywhere
    would get no gradient, and stay so. For attention maps this is half the squared distance of the unit maps, the
    loss of attention transfer's released code. No gradient reaches the teacher.
    """
    if student_maps.shape != teacher_maps.shape:
        raise ValueError(
            f"student and teacher maps must have one shape N×h×w: found {tuple(student_maps.shape)} and "
            f"{tuple(teacher_maps.shape)}: choose layers of equal resolution"
        )
    return 1 - F.cosine_similarity(student_maps.flatten(1), teacher_maps.detach().flatten(1), dim=1).mean()


def maps(model: nn.Module, images: Tensor, classes: Tensor, *, kind: str = "grad-cam", layer: str = "features",
         create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The maps that are matched, N×h×w at the layer's own resolution, and the logits N×C.

    kind: "grad-cam", signed, of the centred logit of `classes`, or "attention"; create_graph: to train through them.
    For Grad-CAM take a layer that no BatchNorm follows, such as "features": in train mode the gradient through one
    sums to zero over the batch, and the channel weights made of it mean nothing.
    """
    if kind not in ("grad-cam", "attention"):
        raise ValueError(f"unknown kind of map {kind!r}: one of grad-cam, attention")
    with torch.enable_grad():
        features, outputs = explain.with_features(model, images, layer)
        found = (
            explain.attention(features)
            if kind == "attention"
            else explain.cam(features, outputs, classes, create_graph=create_graph)
        )
    return (found, outputs) if create_graph else (found.detach(), outputs.detach())


def record_maps(teacher: nn.Module, images: Tensor, classes: Tensor, **options) -> Tensor:
    """The teacher's maps of a whole set, by position, in eval mode; options as of maps."""
    with eval_mode(teacher):
        return torch.cat([maps(teacher, images[rows], classes[rows], **options)[0]
                          for rows in torch.arange(len(images)).split(500)])


def explanation_distillation(model, batch, *, teacher_maps: Tensor, temperature: float = 4.0, weight: float = 5.0,
                             kind: str = "grad-cam", layer: str = "features"):
    """A loss for training.fit: soft targets + weight·(1 - cosine of student's and teacher's maps).

    teacher_maps: of the training images as they are, by position (see record_maps), for the classes that the teacher
    prefers; so without augmented views. Returns the total and its parts, "soft" and "match".
    """
    classes = batch.teacher_logits.argmax(1)
    found, outputs = maps(model, batch.images, classes, kind=kind, layer=layer, create_graph=True)
    soft = losses.soft_target_loss(outputs, batch.teacher_logits, temperature)
    match = explanation_loss(found, teacher_maps[batch.index])
    return soft + weight * match, {"soft": soft, "match": match}
