"""Explanation distillation: the student's maps are pulled towards the teacher's during training (lesson 08).

e²KD (Parchami-Araghi et al. 2024) matches Grad-CAM maps, attention transfer (Zagoruyko and Komodakis 2017) matches
maps of activity that depend on no class. The teacher's flaws are matched as well as its strengths. A student trained
on one explainer must be evaluated with others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import losses
from distill_utils.explain import centred
from distill_utils.feature_losses import attention_map, read
from distill_utils.training import eval_mode


def explanation_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """1 - cosine of two sets of maps N×h×w, mean over images, in [0, 2] (lesson 08).

    The maps keep their sign: after the ReLU that e²KD applies to Grad-CAM, a student whose map is negative everywhere
    would get no gradient. No gradient reaches the teacher. Raises ValueError for different shapes.
    """
    if student_maps.shape != teacher_maps.shape:
        shapes = f"{tuple(student_maps.shape)} and {tuple(teacher_maps.shape)}"
        raise ValueError(f"the maps must have one shape, got {shapes}: use layers of equal resolution")
    student, teacher = (losses.as_float32(maps).flatten(1) for maps in (student_maps, teacher_maps.detach()))
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def maps(model: nn.Module, images: Tensor, classes: Tensor, *, kind: str = "grad-cam", layer: str = "features",
         create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The maps that are matched, N×h×w at the layer's resolution, and the logits N×C.

    kind: "grad-cam" (Selvaraju et al. 2017), Σ over channels of (mean gradient of the centred logit of `classes`)·
    feature, without its ReLU, or "attention", see feature_losses.attention_map; create_graph: to train the model
    through its maps (captum's LayerGradCam treats the channel weights as constants, a wrong gradient). For Grad-CAM
    take a layer that no BatchNorm follows, such as "features": in train mode the gradient through a BatchNorm sums to
    zero over the batch, and so do the channel weights.
    """
    if kind not in ("grad-cam", "attention"):
        raise ValueError(f"kind must be grad-cam or attention, got {kind!r}")
    with torch.enable_grad():
        outputs, (features,) = read(model, images, [layer])
        if kind == "attention":
            result = attention_map(features)
        else:
            score = centred(outputs, classes).sum()
            (gradient,) = torch.autograd.grad(score, features, create_graph=create_graph, retain_graph=True)
            result = (gradient.mean((2, 3), keepdim=True) * features).sum(1)
    return (result, outputs) if create_graph else (result.detach(), outputs.detach())


def record_maps(teacher: nn.Module, images: Tensor, classes: Tensor, **options) -> Tensor:
    """The teacher's maps of a whole set, by position, in eval mode; options as for maps."""
    with eval_mode(teacher):
        return torch.cat([maps(teacher, images[rows], classes[rows], **options)[0]
                          for rows in torch.arange(len(images)).split(500)])


def explanation_distillation(model, batch, *, teacher_maps: Tensor, temperature: float = 4.0, weight: float = 5.0,
                             kind: str = "grad-cam", layer: str = "features"):
    """A loss for training.fit: soft targets + weight·(1 - cosine of the student's and the teacher's maps).

    teacher_maps: of the unaugmented training images, by position (see record_maps), for the class that the teacher
    predicts; train without augmented views. Returns the total and its parts, "soft" and "match".
    """
    classes = batch.teacher_logits.argmax(1)
    student_maps, outputs = maps(model, batch.images, classes, kind=kind, layer=layer, create_graph=True)
    soft = losses.soft_target_loss(outputs, batch.teacher_logits, temperature)
    match = explanation_loss(student_maps, teacher_maps[batch.index])
    return soft + weight * match, {"soft": soft, "match": match}
