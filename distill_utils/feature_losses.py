"""Losses on what a network computes before its logits: FitNets hints, attention transfer, RKD, SimKD.

Feature maps are N×channels×H×W, pooled features N×D. They are read by forward hooks, so no model has to be changed.
The teacher gets no gradient, and half precision is converted to float32 as in losses.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils._recorded import answer
from distill_utils.losses import as_float32
from distill_utils.models import PlainCNN, ResNet
from distill_utils.training import eval_mode


def stages(model: nn.Module) -> list[str]:
    """Names of the layers whose outputs are a network's feature maps, from first to last (lesson 07).

    They are the inputs of the next block: pooling a 7×7 map by two ignores its last row and column, so a loss before
    it would match noise. Raises ValueError for a model other than a PlainCNN or ResNet.
    """
    if not isinstance(model, PlainCNN | ResNet):
        raise ValueError(f"the model must be a PlainCNN or a ResNet, got {type(model).__name__}")
    layers = list(model.features)
    if isinstance(model, ResNet):  # a residual block ends in its own ReLU
        return [f"features.{i}" for i in range(3, len(layers))]
    next_layers = [*layers[1:], nn.Conv2d(1, 1, 1)]
    return [f"features.{i}" for i, layer in enumerate(next_layers) if isinstance(layer, nn.Conv2d)]


def read(model: nn.Module, images: Tensor, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The logits N×C of a model and the outputs of the named layers ("pool": pooled features), in one forward pass.

    Raises AttributeError for a layer that the model does not have, KeyError for one that forward() does not call.
    """
    outputs = {}
    with contextlib.ExitStack() as hooks:
        for name in names:
            def keep(layer, inputs, output, name=name):
                outputs[name] = output

            hooks.enter_context(model.get_submodule(name).register_forward_hook(keep))
        logits = answer(model, images)
    return logits, [outputs[name] for name in names]


@torch.no_grad()
def read_teacher(teacher: nn.Module, images: Tensor, names: list[str], num_classes: int) -> list[Tensor]:
    """The outputs of the named layers of a teacher, in eval mode and without gradient (lesson 07).

    Raises ValueError unless the teacher has num_classes classes, those of the student.
    """
    with eval_mode(teacher):
        logits, maps = read(teacher, images, names)
    if logits.shape[1] != num_classes:
        raise ValueError(f"teacher and student must have the same classes, got {logits.shape[1]} and {num_classes}")
    return maps


class Hinted(nn.Module):
    """A student with a regressor for hint_loss: a 1×1 convolution from its map at one stage to the teacher's width.

    stage counts from 0. The regressor is trained with the student and then dropped. Raises ValueError for an
    unsupported model or maps of different size.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, stage: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.student, self.stage, image = student, stage, torch.zeros(1, *image_shape)
        with eval_mode(student), eval_mode(teacher), torch.no_grad():
            (s,), (t,) = (read(model, image, [stages(model)[stage]])[1] for model in (student, teacher))
        if s.shape[2:] != t.shape[2:]:
            raise ValueError(f"maps at stage {stage} must have one size, got {[*s.shape[2:]]} and {[*t.shape[2:]]}")
        self.regressor = nn.Conv2d(s.shape[1], t.shape[1], 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


class SimKD(nn.Module):
    """A student that reuses the teacher's classifier (Chen et al. 2022; lesson 07): head(projector(features)).

    Student and projector are trained, the head is frozen, the student's own head is not used. The projector stays in
    the model, so count its parameters. Raises ValueError for an unsupported model.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module):
        super().__init__()
        # Refuses other models. It also draws random numbers (for a Conv2d), so the first weights below depend on it.
        stages(student), stages(teacher)
        self.body = nn.Sequential(student.features, student.pool, nn.Flatten())
        self.projector = nn.Linear(student.head.in_features, teacher.head.in_features)
        self.head = nn.Linear(teacher.head.in_features, teacher.head.out_features)
        self.head.load_state_dict(teacher.head.state_dict())
        self.head.requires_grad_(False)

    def projected(self, images: Tensor) -> Tensor:
        """The features N×D that are trained to equal the teacher's pooled ones."""
        return self.projector(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.projected(images))


def hint_loss(student_map: Tensor, teacher_map: Tensor, regressor: nn.Module) -> Tensor:
    """FitNets (Romero et al. 2015; lesson 07): mean squared difference of regressor(student_map) and teacher_map."""
    return F.mse_loss(as_float32(regressor(student_map)), as_float32(teacher_map.detach()))


def attention_map(features: Tensor) -> Tensor:
    """Where a network is active (Zagoruyko and Komodakis 2017; lesson 07): mean over channels of feature², N×H×W."""
    return as_float32(features).square().mean(1)


def attention_transfer_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017; lesson 07) at one stage: mean of (Q_s - Q_t)² over pixels.

    Q is the attention map scaled to unit length per image, so the numbers of channels may differ. This is the form of
    the published code; the paper uses an unsquared distance and a sum. Raises ValueError for maps of another size.
    """
    if student_map.shape[0] != teacher_map.shape[0] or student_map.shape[2:] != teacher_map.shape[2:]:
        raise ValueError("feature maps must have the same N, H and W, got "
                         f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}")
    student, teacher = (F.normalize(attention_map(x).flatten(1)) for x in (student_map, teacher_map.detach()))  # N×HW
    return (student - teacher).square().mean()


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation (Park et al. 2019; lesson 07) of distances between images, features N×D.

    Huber loss between pairwise distances of student and teacher, each divided by the mean distance of its batch; mean
    over N² pairs. It depends on which images share a batch; a single image has no distances and gives NaN.
    """
    def distances(features):
        square = features.square().sum(1)
        d = (square[:, None] + square - 2 * features @ features.T).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(d), dtype=d.dtype, device=d.device))
        return d / d[d > 0].mean()

    return _huber(distances, student, teacher)


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation of angles (lesson 07), features N×D: Huber loss between the cosines of the angles of
    all triplets of images; mean over N³ triplets, so memory grows with the cube of the batch."""
    def cosines(features):
        directions = F.normalize(features[None] - features[:, None], dim=2)  # N×N×D: from image i to image j
        return directions @ directions.transpose(1, 2)

    return _huber(cosines, student, teacher)


def _huber(relations, student: Tensor, teacher: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):  # autocast would multiply the matrices in half precision
        return F.smooth_l1_loss(relations(as_float32(student)), relations(as_float32(teacher.detach())))
