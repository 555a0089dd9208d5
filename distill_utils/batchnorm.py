"""Uses of BatchNorm statistics (lesson 07): matched by a loss, inverted into images.

A trained BatchNorm layer stores the mean and variance of its inputs over the training images. They suffice to
generate images like those of the training set (DeepInversion, Yin et al. 2020).
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _validate, training


def statistics_loss(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The model's logits N×C, and the distance of the images' statistics from those stored in its BatchNorms.

    The distance is Σ over layers of ‖mean - stored mean‖ + ‖variance - stored variance‖ (norms, not squares;
    variances without Bessel's correction). Raises ValueError for a model without BatchNorm or in train mode, in which
    it would overwrite the stored statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ValueError(f"the model must have BatchNorm layers, got {type(model).__name__} without any")
    if any(norm.training for norm in norms):
        raise ValueError("the model must be in eval mode, or it would overwrite its statistics: call eval() first")
    distances = []

    def compare(norm, inputs):
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        distances.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    with contextlib.ExitStack() as hooks:
        for norm in norms:
            hooks.enter_context(norm.register_forward_pre_hook(compare))
        return model(images), torch.stack(distances).sum()


def invert(teacher: nn.Module, labels: Tensor, image_shape: tuple[int, int, int], *, steps: int = 200,
           statistics: float = 1.0, quiet: bool = False) -> Tensor:
    """Images generated from a teacher alone, without any data (DeepInversion).

    Adam changes the pixels, from noise, to minimise cross-entropy with the labels + statistics · statistics_loss +
    0.001 · total variation, of images that each step shifts by up to 2 pixels. labels: LongTensor N, the class that
    each image is to show; image_shape: channels, H, W. Returns float N×channels×H×W in [0, 1]. The teacher does not
    change. Left out: the term of Adaptive DeepInversion, which needs a student, and the L2 term, which the range
    [0, 1] replaces.
    """
    _validate.number("steps", steps, 1, whole=True)
    _validate.full_precision(teacher, "inverted")
    random = torch.Generator().manual_seed(0)
    pixels = 0.5 + 0.1 * torch.randn(len(labels), *image_shape, generator=random)
    pixels.requires_grad_()
    optimizer = torch.optim.Adam([pixels])
    with training.eval_mode(teacher), training.progress_bar(steps, "generating images", quiet=quiet) as bar:
        for step in range(steps):
            offsets = torch.randint(-2, 3, (2,), generator=random).tolist()
            logits, distance = statistics_loss(teacher, pixels.roll(offsets, (2, 3)))
            down, right = pixels.diff(dim=2).abs(), pixels.diff(dim=3).abs()
            total_variation = (down.sum((1, 2, 3)) + right.sum((1, 2, 3))).mean()
            loss = F.cross_entropy(logits, labels) + statistics * distance + 1e-3 * total_variation
            (pixels.grad,) = torch.autograd.grad(loss, pixels)  # the teacher's weights get no gradient
            optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
            bar.update()
    return pixels.detach()
