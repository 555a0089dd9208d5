"""What BatchNorm remembers, used: folded into convolutions for export, matched as a loss, dreamt back into images.

A trained BatchNorm layer holds the mean and the variance that its inputs had over the training images. In eval mode
it is a fixed scale and shift, which a convolution can take over; and its record is enough to ask which images look
right to the network (DeepInversion, Yin et al. 2020). Re-estimating the record is training.reestimate_batch_norm.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distill_utils import training


def fold(model: nn.Module) -> nn.Module:
    """A copy in eval mode in which every convolution has taken over the BatchNorm that follows it.

    W' = W·γ/√(var + ε) per output channel, b' = β + γ·(b - mean)/√(var + ε): the same logits up to rounding, with
    fewer operations. The copy is for inference: trained further, it would be another network. Raises ValueError
    where a BatchNorm does not follow a convolution in an nn.Sequential, and so cannot be folded.
    """
    model = copy.deepcopy(model).eval()
    for block in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        layers = list(block)
        for i in range(len(layers) - 1):
            if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
                block[i], block[i + 1] = fuse_conv_bn_eval(layers[i], layers[i + 1]), nn.Identity()
    left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ValueError(
            f"BatchNorm {', '.join(left)} follows no convolution in an nn.Sequential: it cannot be folded"
        )
    return model


def statistics_loss(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The model's logits N×C, and how far the images' statistics lie from those that its BatchNorms recorded.

    The loss is Σ over layers of ‖mean - recorded mean‖ + ‖variance - recorded variance‖, norms and not squares,
    variances without Bessel's correction; it is 0 where the batch looks like the training images to every layer. The
    model must be in eval mode, or it would record the statistics of these images. Raises ValueError in training
    mode or without BatchNorm.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise ValueError(f"{type(model).__name__} has no BatchNorm, so it has recorded no statistics to match")
    if any(norm.training for norm in norms):
        raise ValueError(
            "the model is in training mode and would overwrite its BatchNorm statistics: call eval() first"
        )
    distances = []

    def compare(norm, inputs):
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        distances.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        return model(images), torch.stack(distances).sum()
    finally:
        for hook in hooks:
            hook.remove()


def invert(teacher: nn.Module, labels: Tensor, image_shape: tuple[int, int, int], *, steps: int = 200,
           lr: float = 0.05, statistics: float = 1.0, variation: float = 1e-3, shift: int = 2, seed: int = 0,
           quiet: bool = False) -> Tensor:
    """Images that the teacher would have liked to be trained on, made without any data (DeepInversion).

    Pixels, started from noise, minimise cross-entropy against the labels + statistics · statistics_loss +
    variation · total variation, by Adam; each step sees them shifted by up to `shift` pixels, since no pixel means
    anything by its place. labels: LongTensor N, the class that each image shall be; image_shape: channels, H, W.
    Returns float N×channels×H×W in [0, 1]. The teacher is asked in eval mode and does not change. Left out: the
    paper's pull away from a student (Adaptive DeepInversion) and its L2 term, which a range of [0, 1] replaces.
    """
    random = torch.Generator().manual_seed(seed)
    pixels = 0.5 + 0.1 * torch.randn(len(labels), *image_shape, generator=random)
    pixels.requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=lr)
    with training.eval_mode(teacher), training.progress_bar(steps, "dreaming images", quiet=quiet) as bar:
        for step in range(steps):
            places = torch.randint(-shift, shift + 1, (2,), generator=random).tolist()
            logits, distance = statistics_loss(teacher, pixels.roll(places, (2, 3)))
            loss = F.cross_entropy(logits, labels) + statistics * distance + variation * _variation(pixels)
            (pixels.grad,) = torch.autograd.grad(loss, pixels)  # the teacher's weights get no gradient
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
            bar.update()
    return pixels.detach()


def _variation(images: Tensor) -> Tensor:
    """Total variation: mean absolute difference of neighbours, summed over an image, mean over images."""
    down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return (down.sum((1, 2, 3)) + right.sum((1, 2, 3))).mean()
