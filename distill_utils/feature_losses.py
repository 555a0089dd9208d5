"""Losses on what a network computes on the way to its logits: FitNets hint, attention transfer, relations, SimKD.

Features are read by forward hooks, so no model has to be changed; hooks are gone when reading ends. Where student
and teacher differ in width, a regressor stands between them: it is trained with the student (fit optimises the
wrapper's parameters) and thrown away afterwards, except by SimKD, whose student keeps it. Feature maps are
N×channels×H×W, features N×D; the teacher gets no gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate
from distill_utils.models import PlainCNN, ResNet
from distill_utils.training import eval_mode


def stages(model: nn.Module) -> list[str]:
    """Names of the modules whose outputs are a network's feature maps, from the first to the last: what the next
    block reads, so after pooling. (Pooling a 7×7 map by two never reads its last row and column, and what stands
    there means nothing.)

    Raises ValueError, naming the class, for a model that offers no features.
    """
    if not isinstance(model, PlainCNN | ResNet):
        raise ValueError(
            f"{type(model).__name__} offers no features: hints, attention and relations need a convolutional network "
            "of models.build; use a loss on logits"
        )
    layers = list(model.features)
    if isinstance(model, ResNet):  # a residual block ends in its own ReLU
        return [f"features.{i}" for i in range(3, len(layers))]
    followers = [*layers[1:], nn.Conv2d(1, 1, 1)]
    return [f"features.{i}" for i, follower in enumerate(followers) if isinstance(follower, nn.Conv2d)]


def read(model: nn.Module, images: Tensor, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """One pass through a model: its logits N×C and the outputs of the named modules ("pool": pooled features).

    Raises ValueError for a name that the model does not have, or of a module that it does not ask.
    """
    _validate.tensors(images=(images, "float N×channels×H×W"))
    modules, seen, hooks = dict(model.named_modules()), {}, []
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f"{type(model).__name__} offers no features named {', '.join(missing)}: see features.stages")
    try:
        for name in names:
            hooks.append(modules[name].register_forward_hook(lambda *call, name=name: seen.update({name: call[-1]})))
        answer = model(images)
        unasked = [name for name in names if name not in seen]
        if unasked:
            raise ValueError(f"{type(model).__name__} has {', '.join(unasked)}, but does not ask it for its logits")
        return answer, [seen[name] for name in names]
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def read_teacher(teacher: nn.Module, images: Tensor, names: list[str], num_classes: int) -> list[Tensor]:
    """The named outputs of a teacher in eval mode, whatever mode it is left in; no gradient.

    Raises ValueError where the teacher tells apart another number of classes than num_classes.
    """
    with eval_mode(teacher):
        logits, maps = read(teacher, images, names)
    if logits.shape[1] != num_classes:
        raise ValueError(f"teacher and student must have the same classes: found {logits.shape[1]} and {num_classes}")
    return maps


class Hinted(nn.Module):
    """A student with a 1×1 convolution from its feature map to the teacher's width at one stage (FitNets).

    Called on images it is the student; `regressor` is only needed while it is trained. stage counts from 0. Raises
    ValueError where either model offers no features, or no such stage.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, stage: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.student, self.stage = student, stage
        image = torch.zeros(1, *image_shape)
        s, t = (_map_at(model, stage, image) for model in (student, teacher))
        if s.shape[2:] != t.shape[2:]:
            raise ValueError(
                f"feature maps at stage {stage} differ in size: {tuple(s.shape[2:])} and {tuple(t.shape[2:])}"
            )
        self.regressor = nn.Conv2d(s.shape[1], t.shape[1], 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


class SimKD(nn.Module):
    """A student that keeps the teacher's classifier (Chen et al. 2022): teacher's head (projector (features)).

    Only student and projector learn; the student's own head is unused. The projector's weights stay in the model, so
    count them. Raises ValueError where either model offers no features.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module):
        super().__init__()
        stages(student), stages(teacher)
        self.body = nn.Sequential(student.features, student.pool, nn.Flatten())
        self.projector = nn.Linear(student.head.in_features, teacher.head.in_features)
        self.head = nn.Linear(teacher.head.in_features, teacher.head.out_features)
        self.head.load_state_dict(teacher.head.state_dict())
        self.head.requires_grad_(False)

    def projected(self, images: Tensor) -> Tensor:
        """The features N×D that shall equal the teacher's pooled ones."""
        first = self.body[0][0].weight
        _validate.tensors(images=(images, f"float N×{first.shape[1]}×H×W"))
        return self.projector(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.projected(images))


def hint_loss(student_map: Tensor, teacher_map: Tensor, regressor: nn.Module) -> Tensor:
    """FitNets (Romero et al. 2015): mean squared difference of the regressed student's and the teacher's map.

    Without a hint stage of its own: added to the soft targets through all of training, as RepDistiller does.
    """
    _validate.tensors(student_map=(student_map, "float N×channels×H×W"),
                      teacher_map=(teacher_map, "float N×width×H×W"))
    return F.mse_loss(regressor(student_map), teacher_map.detach())


def attention_transfer_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017), one stage: mean of (Q_s - Q_t)² over images and places.

    Q = mean over channels of A², as a vector of unit length; no regressor is needed, since channels are averaged
    away. This is the form of the published code; the paper takes the un-squared distance and a sum.
    Raises ValueError for maps of different height or width.
    """
    _validate.tensors(student_map=(student_map, "float N×channels×H×W"))
    _validate.tensors(teacher_map=(teacher_map, "float N×channels×H×W"))
    if student_map.shape[0] != teacher_map.shape[0] or student_map.shape[2:] != teacher_map.shape[2:]:
        raise ValueError(
            "attention maps must agree in N, H and W: found feature maps of shape "
            f"{tuple(student_map.shape)} and {tuple(teacher_map.shape)}"
        )

    def attention(maps):
        return F.normalize(maps.square().mean(1).flatten(1))  # N×HW

    return (attention(student_map) - attention(teacher_map.detach())).square().mean()


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation (Park et al. 2019) of distances, features N×D: Huber loss between the pairwise
    distances of student and teacher, each in units of its own batch's mean distance; mean over N² pairs.

    It depends on which images share a batch. Raises ValueError for a single image, which is at no distance.
    """
    _validate.tensors(student=(student, "float N×D"), teacher=(teacher, "float N×width"))
    _validate.number("the number of images", len(student), 2)

    def distances(features):
        square = features.square().sum(1)
        d = (square[:, None] + square - 2 * features @ features.T).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(d), dtype=d.dtype, device=d.device))
        return d / d[d > 0].mean()

    return F.smooth_l1_loss(distances(student), distances(teacher.detach()))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation of angles, features N×D: Huber loss between the cosines of the angles that every
    triplet of images spans; mean over N³ triplets, so memory grows with the cube of the batch."""
    _validate.tensors(student=(student, "float N×D"), teacher=(teacher, "float N×width"))

    def cosines(features):
        directions = F.normalize(features[None] - features[:, None], dim=2)  # N×N×D: from image i to image j
        return directions @ directions.transpose(1, 2)

    return F.smooth_l1_loss(cosines(student), cosines(teacher.detach()))


def _map_at(model: nn.Module, stage: int, image: Tensor) -> Tensor:
    names = stages(model)
    _validate.number("stage", stage, whole=True)
    if not 0 <= stage < len(names):
        raise ValueError(f"stage {stage} does not exist: {type(model).__name__} has stages 0 to {len(names) - 1}")
    with eval_mode(model), torch.no_grad():
        return read(model, image, names[stage : stage + 1])[1][0]
